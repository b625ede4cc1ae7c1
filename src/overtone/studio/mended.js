// Names and roles that gradio's components lack, put there as they appear: an area for uploads is
// called by the words in it, and an empty place for a picture is a picture.
new MutationObserver(() => {
  for (const part of document.querySelectorAll(".upload-container[aria-label]"))
    part.removeAttribute("aria-label");
  for (const part of document.querySelectorAll(".empty[aria-label]:not([role])"))
    part.setAttribute("role", "img");
}).observe(document, { childList: true, subtree: true });
