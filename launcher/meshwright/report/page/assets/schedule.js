// The pipeline's passes: a row a stage, time to the right. What repeats is folded away; the fold is drawn.
function schedule(figure, data) {
  const place = figure.querySelector(".canvas"), stages = data.passes.map((codes, i) => decoded(codes, data, i));
  const { seconds: folded, passes: cuts, microbatches: omitted } = data.fold;
  const end = data.total - folded, left = 34, bottom = 24, top = omitted ? 20 : 4;
  const row = Math.max(7, Math.min(34, 460 / stages.length)), gap = row > 12 ? 2 : 1;
  let x = d3.scaleLinear(), zoomed = d3.zoomIdentity, paints;

  const drawing = canvasIn(place, () => top + stages.length * row + bottom, draw, place.dataset.label);
  const zoom = d3.zoom().scaleExtent([1, 400])
    .filter((event) => event.type !== "wheel" || event.ctrlKey || event.metaKey)
    .on("zoom", ({ transform }) => { zoomed = transform; requestAnimationFrame(drawing.paint); });
  const canvas = d3.select(drawing.canvas).call(zoom);

  function draw(context, width, tall) {
    zoom.extent([[left, 0], [width, tall]]).translateExtent([[left, 0], [width, tall]]);
    x = zoomed.rescaleX(d3.scaleLinear([0, end], [left, width - 1]));
    paints = palette(data);
    context.clearRect(0, 0, width, tall);
    context.font = "11px system-ui, sans-serif";
    stages.forEach((passes, i) => stage(context, passes, i, width));
    fold(context);
    axis(context, width, tall);
  }

  function stage(context, passes, i, width) {
    const y = top + i * row, high = row - gap;
    context.fillStyle = paints.idle;
    context.fillRect(Math.max(left, x(0)), y, Math.min(width, x(end)) - Math.max(left, x(0)), high);
    context.save();
    context.beginPath();
    context.rect(left, y, width - left, high);
    context.clip();
    const from = d3.bisectLeft(passes.end, x.invert(left)), to = d3.bisectRight(passes.start, x.invert(width));
    for (let k = from; k < to; k++) pass(context, passes, k, i, y, high);
    for (const [kind, start, stop] of data.ending) bar(context, paints[kind], x(start), x(stop), y, high);
    context.restore();
    context.fillStyle = paints.dim;
    context.textAlign = "right";
    context.textBaseline = "middle";
    if (row >= 11 || i % Math.ceil(11 / row) === 0) context.fillText(i, left - 8, y + high / 2);
  }

  function pass(context, passes, k, i, y, high) {
    const from = x(passes.start[k]), to = x(passes.end[k]), back = passes.back[k];
    bar(context, paints[back ? "backward" : "forward"][passes.chunk[k]], from, to, y, high);
    const again = back ? data.recompute[i][passes.chunk[k]] : 0;
    if (again > 0.02) bar(context, paints.recompute, from, from + again * (to - from), y, high);
    if (to - from > 24 && high > 11) {
      context.fillStyle = paints.ink;
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.fillText(passes.microbatch[k], (Math.max(from, left) + Math.min(to, x.range()[1])) / 2, y + high / 2 + 0.5);
    }
  }

  function bar(context, fill, from, to, y, high) {
    const room = to - from > 4 ? 0.75 : 0;
    context.fillStyle = fill;
    context.fillRect(from, y, Math.max(0.4, to - from - room), high);
  }

  function fold(context) {
    if (!omitted) return;
    context.strokeStyle = context.fillStyle = paints.text;
    context.lineWidth = 1.5;
    context.setLineDash([4, 3]);
    context.beginPath();
    const edge = (passes, i) => x(passes.end[cuts[i] - 1]);
    stages.forEach((passes, i) => {
      context.lineTo(Math.max(left, edge(passes, i)), top + i * row);
      context.lineTo(Math.max(left, edge(passes, i)), top + (i + 1) * row - gap);
    });
    context.stroke();
    context.setLineDash([]);
    const here = edge(stages[0], 0);
    context.textAlign = here < x.range()[1] / 2 ? "left" : "right";
    context.textBaseline = "alphabetic";
    context.fillText(`${count(omitted)} micro-batches like these left out, ${time(folded)}`, Math.max(left, here), 13);
  }

  function axis(context, width, tall) {
    context.fillStyle = paints.dim;
    context.textBaseline = "alphabetic";
    context.textAlign = "left";
    context.fillText("stage", 0, tall - 5);
    context.textAlign = "center";
    const last = omitted ? x(stages[0].end[cuts[0] - 1]) : Infinity;
    const ticks = x.ticks(Math.max(3, width / 110)), format = x.tickFormat(Math.max(3, width / 110));
    for (const tick of ticks) {
      const at = x(tick), shift = at > last ? folded : 0;
      if (at < left + 8 || at > width - 16) continue;
      context.fillRect(at, tall - bottom + 2, 1, 4);
      context.fillText(`${shift ? d3.format(".4~g")(tick + shift) : format(tick)} s`, at, tall - 5);
    }
  }

  function told(event) {
    const i = Math.floor((event.offsetY - top) / row), moment = x.invert(event.offsetX), passes = stages[i];
    if (!passes || event.offsetX < left || moment > end || moment < 0) return "";
    const ending = data.ending.find(([, start, stop]) => moment >= start && moment < stop);
    if (ending) return `stage ${i}\n${words[ending[0]]}, ${time(ending[2] - ending[1])}`;
    const k = d3.bisectRight(passes.start, moment) - 1;
    if (k < 0 || moment > passes.end[k]) return `stage ${i}\nwaits`;
    const shift = k >= (cuts[i] ?? Infinity) ? folded : 0, length = passes.end[k] - passes.start[k];
    const again = passes.back[k] ? data.recompute[i][passes.chunk[k]] * length : 0;
    return [`stage ${i}, chunk ${passes.chunk[k]}`, `${passes.back[k] ? "backward" : "forward"} of micro-batch ${passes.microbatch[k]}`,
      `${time(length)}, from ${d3.format(".4~f")(passes.start[k] + shift)} s`,
      ...(again ? [`of which ${time(again)} recomputation`] : [])].join("\n");
  }

  canvas.on("pointermove", (event) => showTip(told(event), event)).on("pointerleave", () => showTip(""));
  const keys = { "+": () => canvas.call(zoom.scaleBy, 1.5), "=": () => canvas.call(zoom.scaleBy, 1.5),
    "-": () => canvas.call(zoom.scaleBy, 1 / 1.5), 0: () => canvas.call(zoom.transform, d3.zoomIdentity),
    ArrowLeft: () => canvas.call(zoom.translateBy, 80 / zoomed.k, 0), ArrowRight: () => canvas.call(zoom.translateBy, -80 / zoomed.k, 0) };
  canvas.on("keydown", (event) => { if (keys[event.key]) { event.preventDefault(); keys[event.key](); } });
  for (const button of figure.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => {
    const by = Number(button.dataset.zoom);
    by ? canvas.call(zoom.scaleBy, by) : canvas.call(zoom.transform, d3.zoomIdentity);
  });
  const kinds = [["forward", "c-forward"], ["backward", "c-backward"],
    ...(d3.max(data.recompute.flat()) > 0.02 ? [["recomputation", "c-recompute"]] : []), ["waiting", "idle"],
    ...data.ending.map(([kind]) => [words[kind], `c-${kind}`])];
  legend(figure.querySelector(".legend"), kinds.map(([name, variable]) => [name, `var(--${variable})`]));
  figure.querySelector(".tools").hidden = false;
}

// Pairs of a code and microseconds since the last pass, as passes with seconds.
function decoded(codes, data, stage) {
  const chunks = data.seconds[stage].length, size = codes.length / 2;
  const passes = { start: new Float64Array(size), end: new Float64Array(size), chunk: [], microbatch: [], back: [] };
  for (let k = 0, now = 0; k < size; k++) {
    const code = codes[2 * k], back = code & 1, unit = code >> 1;
    now += codes[2 * k + 1];
    passes.back.push(back);
    passes.chunk.push(unit % chunks);
    passes.microbatch.push(Math.floor(unit / chunks));
    passes.start[k] = now / 1e6;
    passes.end[k] = now / 1e6 + data.seconds[stage][unit % chunks][back];
  }
  return passes;
}

function palette(data) {
  const chunks = data.seconds[0].length, card = colour("card");
  const shades = (name) => Array.from({ length: chunks }, (_, i) => d3.interpolateRgb(colour(name), card)((0.55 * i) / Math.max(1, chunks)));
  return { forward: shades("c-forward"), backward: shades("c-backward"), recompute: colour("c-recompute"), idle: colour("idle"),
    data: colour("c-data"), offload: colour("c-offload"), optimizer: colour("c-optimizer"), dim: colour("dim"), text: colour("text"), ink: "#fff" };
}

const time = (seconds) => (seconds >= 0.1 ? `${d3.format(".3~r")(seconds)} s` : `${d3.format(".3~r")(seconds * 1e3)} ms`);
