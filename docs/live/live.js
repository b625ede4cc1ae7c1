// One evaluation of an operator for each place of the pointer.
const here = new URL(".", import.meta.url);
const box = document.getElementById("live");
const said = document.getElementById("live-said");
const LARGE = 200, SMALL = 88;

const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

const canvas = (size, side, label) =>
  element("canvas", {
    width: side, height: side, role: "img", "aria-label": label,
    style: `width:${size}px;height:${size}px;image-rendering:pixelated;border-radius:4px`,
  });

const paint = (into, values, from, side) => {
  const pen = into.getContext("2d"), pixels = pen.createImageData(side, side);
  for (let i = 0; i < side * side; i++) {
    const grey = Math.round(Math.min(255, Math.max(0, (values[from + i] + 1) * 127.5)));
    pixels.data.set([grey, grey, grey, 255], 4 * i);
  }
  pen.putImageData(pixels, 0, 0);
};

const start = async () => {
  if (typeof WebAssembly === "undefined") {
    said.textContent = "This browser has no WebAssembly, which the network is computed with.";
    return;
  }
  said.textContent = "The network is being fetched: 6 MB, and 14 MB of WebAssembly.";
  const ort = await import(new URL("ort.wasm.min.mjs", here));
  ort.env.wasm.wasmPaths = here.href;
  ort.env.wasm.numThreads = 1;
  const read = async (name) => {
    const answer = await fetch(new URL(name, here));
    if (!answer.ok) throw new Error(`${name} is not there (${answer.status})`);
    return answer.arrayBuffer();
  };
  const model = JSON.parse(new TextDecoder().decode(await read("model.json")));
  const noises = new Float32Array(await read("noise.bin"));
  const session = await ort.InferenceSession.create(await read("operator.onnx"));
  const [channels, side] = model.shape, count = channels * side * side;
  const seeds = noises.length / count;
  let first = 0, place = [0.5, 0.5], label = 3, busy = false, waiting = false;

  const pad = element("canvas", {
    width: LARGE, height: LARGE, tabindex: 0, role: "img", id: "live-pad",
    "aria-label": "Noise: four seeds at the corners; arrow keys move between them",
    style: `width:${LARGE}px;height:${LARGE}px;border-radius:4px;cursor:crosshair;touch-action:none`,
  });
  const image = canvas(LARGE, side, "The digit");
  image.id = "live-image";
  const classes = element("select", { id: "live-class", "aria-label": "Class" });
  for (const [number, name] of model.class_names.entries())
    classes.append(element("option", { value: number }, name));
  classes.value = label;
  const others = element("button", { type: "button", id: "live-seeds" }, "Other seeds");
  const states = element("div", { style: "display:flex;gap:8px;flex-wrap:wrap" });
  box.append(
    element("p", {}, element("label", {}, "Class ", classes), " ", others),
    element("div", { style: "display:flex;gap:16px;flex-wrap:wrap" }, pad, image),
    element("p", {}, "States:"), states,
  );

  const noise = () => {
    const [a, b] = place.map((share) => (share * Math.PI) / 2);
    const weights = [
      Math.cos(a) * Math.cos(b), Math.sin(a) * Math.cos(b),
      Math.cos(a) * Math.sin(b), Math.sin(a) * Math.sin(b),
    ];
    const mixed = new Float32Array(count);
    for (let corner = 0; corner < 4; corner++)
      for (let i = 0; i < count; i++)
        mixed[i] += weights[corner] * noises[((first + corner) % seeds) * count + i];
    return mixed;
  };

  const mark = () => {
    const pen = pad.getContext("2d");
    pen.fillStyle = "#10131f";
    pen.fillRect(0, 0, LARGE, LARGE);
    pen.fillStyle = "#c9cede";
    pen.font = "12px sans-serif";
    const near = [8, LARGE - 52];
    for (let corner = 0; corner < 4; corner++)
      pen.fillText(`seed ${(first + corner) % seeds}`, near[corner % 2], corner < 2 ? 18 : LARGE - 8);
    pen.fillStyle = "#ffb000";
    pen.beginPath();
    pen.arc(place[0] * LARGE, place[1] * LARGE, 7, 0, 2 * Math.PI);
    pen.fill();
  };

  const make = async () => {
    if (busy) {
      waiting = true;
      return;
    }
    busy = true;
    mark();
    const given = {}, [noiseName, labelName] = session.inputNames;
    given[noiseName] = new ort.Tensor("float32", noise(), [1, channels, side, side]);
    given[labelName] = new ort.Tensor("int64", BigInt64Array.of(BigInt(label)), [1]);
    const began = performance.now();
    const out = (await session.run(given))[session.outputNames[0]];
    const taken = performance.now() - began, times = out.dims[1];
    while (states.childElementCount < times)
      states.append(canvas(SMALL, side, `State ${states.childElementCount + 1}`));
    for (let time = 0; time < times; time++)
      paint(states.children[time], out.data, time * count, side);
    paint(image, out.data, (times - 1) * count, side);
    said.textContent = `One evaluation took ${taken.toFixed(1)} ms.`;
    box.dataset.made = [first, ...place, label].join(" ");
    busy = false;
    if (waiting) {
      waiting = false;
      make();
    }
  };

  const moved = (x, y) => {
    place = [x, y].map((share) => Math.min(1, Math.max(0, share)));
    make();
  };
  pad.addEventListener("pointermove", (event) => {
    const area = pad.getBoundingClientRect();
    moved((event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height);
  });
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  pad.addEventListener("keydown", (event) => {
    const by = steps[event.key];
    if (!by) return;
    event.preventDefault();
    moved(place[0] + by[0] / 20, place[1] + by[1] / 20);
  });
  classes.addEventListener("change", () => {
    label = Number(classes.value);
    make();
  });
  others.addEventListener("click", () => {
    first = (first + 4) % seeds;
    make();
  });
  await make();
};

if (box)
  start().catch((error) => {
    said.textContent = `The model can't be run here (${error.message}). \`make site\` builds this page with it.`;
  });
