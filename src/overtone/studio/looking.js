// Draws estimates and attention maps; the query is the place under the pointer, or under the arrow
// keys. `element` and `watch` are given by the page.
const draw = () => {
  const box = element.querySelector(".levels");
  if (!box) return;
  let found = {};
  try { found = JSON.parse(box.dataset.attention || "{}"); } catch { return; }
  box.replaceChildren();
  if (!found.levels) return;
  const maps = [];
  let query = [Math.floor(found.rows / 2), Math.floor(found.columns / 2)];
  const light = () => {
    const at = query[0] * found.columns + query[1];
    for (const map of maps) map(at);
  };
  const asked = (event, canvas) => {
    const area = canvas.getBoundingClientRect();
    const place = (part, whole, count) =>
      Math.max(0, Math.min(count - 1, Math.floor((part / whole) * count)));
    query = [
      place(event.clientY - area.top, area.height, found.rows),
      place(event.clientX - area.left, area.width, found.columns),
    ];
    light();
  };
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  for (const level of found.levels) {
    const column = document.createElement("div");
    const picture = new Image();
    const canvas = document.createElement("canvas");
    const words = document.createElement("figcaption");
    words.textContent = `sigma ${level.sigma.toPrecision(3)}`;
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute(
      "aria-label", `Estimate at sigma ${level.sigma.toPrecision(3)}; arrow keys move the query`);
    canvas.addEventListener("pointermove", (event) => asked(event, canvas));
    canvas.addEventListener("pointerdown", (event) => asked(event, canvas));
    canvas.addEventListener("keydown", (event) => {
      const by = steps[event.key];
      if (!by) return;
      event.preventDefault();
      query = [
        Math.max(0, Math.min(found.rows - 1, query[0] + by[0])),
        Math.max(0, Math.min(found.columns - 1, query[1] + by[1])),
      ];
      light();
    });
    const figure = document.createElement("figure");
    figure.append(canvas, words);
    column.append(figure);
    const mark = () => {
      if (!picture.naturalWidth) return;
      const factor = Math.max(1, Math.round(256 / picture.naturalWidth));
      canvas.width = factor * picture.naturalWidth;
      canvas.height = factor * picture.naturalHeight;
      const pen = canvas.getContext("2d");
      pen.imageSmoothingEnabled = false;
      pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
      const high = canvas.height / found.rows, wide = canvas.width / found.columns;
      pen.strokeStyle = "#ff2d55";
      pen.lineWidth = 4;
      pen.strokeRect(query[1] * wide, query[0] * high, wide, high);
    };
    picture.onload = mark;
    picture.src = level.picture;
    maps.push(mark);
    for (const [name, layer] of Object.entries(level.layers)) {
      const [rows, columns] = layer.shape;
      const weights = Uint8Array.from(atob(layer.weights), (letter) => letter.charCodeAt(0));
      const shown = document.createElement("canvas");
      shown.width = columns;
      shown.height = rows;
      shown.setAttribute("role", "img");
      shown.setAttribute("aria-label", `Attention of layer ${name}`);
      const under = document.createElement("figcaption");
      under.textContent = name;
      const part = document.createElement("figure");
      part.append(shown, under);
      column.append(part);
      const pen = shown.getContext("2d");
      maps.push((at) => {
        const pixels = pen.createImageData(columns, rows);
        for (let i = 0; i < rows * columns; i++) {
          const value = weights[at * rows * columns + i];
          const colour = [16 + 0.937 * value, 19 + 0.616 * value, 31 - 0.12 * value, 255];
          pixels.data.set(colour.map(Math.round), 4 * i);
        }
        pen.putImageData(pixels, 0, 0);
      });
    }
    box.append(column);
  }
  light();
};
draw();
watch("value", draw);
