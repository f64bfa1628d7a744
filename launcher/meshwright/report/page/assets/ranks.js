// Where each rank stands: one cell a GPU, one column a node. Ranks are arithmetic (offset, size and stride of each
// axis), so that nothing is listed however large the grid is.
const GROUPS = { tp: "c-tensor", cp: "c-context", dp: "c-data", pp: "c-compute", etp: "c-recompute", ep: "c-expert", edp: "c-pipeline" };

function rankMap(figure, grid) {
  const axes = new Map([...grid.dense, ...grid.expert].map(([name, size, stride]) => [name, { name, size, stride }]));
  const shown = [...axes.values()].filter((axis) => axis.size > 1);
  const select = figure.querySelector(".axis"), input = figure.querySelector(".rank");
  const standing = figure.querySelector(".standing"), place = figure.querySelector(".canvas");
  const at = (rank, axis) => Math.floor(rank / axis.stride) % axis.size;
  let layout, here = null, groups = [];

  for (const axis of shown) select.add(new Option(`${axis.name} (${axis.size})`, axis.name));
  select.add(new Option("node", "node"));
  select.value = axes.get("pp")?.size > 1 ? "pp" : shown.at(-1)?.name ?? "node";

  const base = canvasIn(place, height, draw, place.dataset.label);
  const over = canvasIn(place, height, highlight, null);

  function height(width) {
    layout = arranged(width, grid);
    return layout.height;
  }

  function fills() {
    const axis = axes.get(select.value);
    const size = axis ? axis.size : Math.ceil(grid.world / grid.gpus_per_node);
    const shade = (i) => d3.interpolateViridis(0.08 + (0.87 * i) / Math.max(1, size - 1));
    const table = Array.from({ length: size }, (_, i) => shade(i));
    legend(figure.querySelector(".legend"), size === 1 ? [] : [0, Math.floor((size - 1) / 2), size - 1]
      .filter((i, k, all) => all.indexOf(i) === k).map((i) => [`${select.value} ${i}`, table[i]]));
    return axis ? (rank) => table[at(rank, axis)] : (rank) => table[Math.floor(rank / grid.gpus_per_node)];
  }

  function draw(context) {
    const began = performance.now(), fill = fills();
    context.fillStyle = colour("dim");
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    for (let line = 0; layout.left && line * layout.line < layout.height; line++)
      context.fillText(layout.label(line), 0, (line + 0.5) * layout.line - layout.cell / 3);
    for (let rank = 0; rank < grid.world; rank++) {
      const [x, y] = layout.place(rank);
      context.fillStyle = fill(rank);
      context.fillRect(x, y, layout.wide, layout.cell);
    }
    figure.dataset.drawn = (performance.now() - began).toFixed(1);
  }

  function highlight(context, width, tall) {
    context.clearRect(0, 0, width, tall);
    if (here === null) return;
    context.globalAlpha = 0.72;
    context.fillStyle = colour("card");
    context.fillRect(0, 0, width, tall);
    context.globalAlpha = 1;
    for (const group of [...groups].sort((a, b) => b.size - a.size)) {
      context.fillStyle = colour(GROUPS[group.name]);
      for (let i = 0; i < group.size; i++) {
        const [x, y] = layout.place(group.first + i * group.stride);
        context.fillRect(x, y, layout.wide, layout.cell);
      }
    }
    const [x, y] = layout.place(here), edge = Math.max(1.5, layout.cell / 5);
    context.fillStyle = colour("text");
    context.fillRect(x - edge, y - edge, layout.wide + 2 * edge, layout.cell + 2 * edge);
  }

  function point(rank) {
    if (rank === here) return;
    here = rank;
    groups = rank === null ? [] : shown.map((axis) => ({ ...axis, first: rank - at(rank, axis) * axis.stride }));
    requestAnimationFrame(over.paint);
    describe();
  }

  function describe() {
    standing.replaceChildren();
    if (here === null) return;
    const node = Math.floor(here / grid.gpus_per_node), list = document.createElement("ul");
    const title = document.createElement("b");
    title.textContent = `rank ${count(here)}: node ${count(node)}, GPU ${here % grid.gpus_per_node}`;
    for (const group of groups) {
      const item = document.createElement("li"), swatch = document.createElement("i");
      swatch.style.background = `var(--${GROUPS[group.name]})`;
      item.dataset.axis = group.name;
      item.append(swatch, `${group.name} ${at(here, group)}: ${members(group)}`);
      list.append(item);
    }
    standing.append(title, list);
  }

  function members(group) {
    const last = group.first + (group.size - 1) * group.stride;
    const nodes = nodesOf(group);
    const which = group.stride === 1 ? `ranks ${group.first}–${last}`
      : group.size === 2 ? `ranks ${group.first}, ${last}` : `ranks ${group.first}, ${group.first + group.stride} … ${last}`;
    return `${which}${nodes === 1 ? ", one node" : `, ${count(nodes)} nodes`}`;
  }

  function nodesOf(group) {
    const found = new Set();
    for (let i = 0; i < group.size; i++) found.add(Math.floor((group.first + i * group.stride) / grid.gpus_per_node));
    return found.size;
  }

  const step = { ArrowDown: () => 1, ArrowUp: () => -1, ArrowRight: () => grid.gpus_per_node, ArrowLeft: () => -grid.gpus_per_node };
  base.canvas.addEventListener("pointermove", (event) => point(layout.rank(event.offsetX, event.offsetY)));
  base.canvas.addEventListener("pointerdown", (event) => point(layout.rank(event.offsetX, event.offsetY)));
  base.canvas.addEventListener("pointerleave", () => input.value === "" && point(null));
  base.canvas.addEventListener("keydown", (event) => {
    if (event.key === "Escape") point(null);
    if (!step[event.key]) return;
    event.preventDefault();
    const next = (here ?? -step[event.key]()) + step[event.key]();
    if (next >= 0 && next < grid.world) point(next);
  });
  input.addEventListener("input", () => {
    const rank = input.value === "" ? null : Number(input.value);
    if (rank === null || (Number.isInteger(rank) && rank >= 0 && rank < grid.world)) point(rank);
  });
  select.addEventListener("change", base.paint);
  figure.querySelector(".tools").hidden = false;
}

// The largest cells with which all nodes fit: `rows` GPUs of a node above one another, nodes side by side. Where the
// slowest axis changes, a line begins, if lines are long enough for it.
function arranged(width, grid) {
  const { world, gpus_per_node: gpus } = grid, nodes = Math.ceil(world / gpus);
  const rows = gpus <= 8 ? gpus : Math.ceil(Math.sqrt(gpus)), columns = Math.ceil(gpus / rows);
  const slowest = grid.dense.filter(([, size]) => size > 1).at(-1) ?? ["", 1, world];
  const unit = Math.max(1, Math.floor(slowest[2] / gpus)), most = width < 600 ? 900 : 600, left = width < 600 ? 0 : 44;
  let found;
  for (let cell = 22; cell >= 2; cell--) {
    const gap = cell > 5 ? 1 : 0, between = Math.max(1, Math.round(cell / 3));
    const pitch = columns * (cell + gap) + between, line = rows * (cell + gap) + 2 * between + 2;
    const across = whole(Math.max(1, Math.floor((width - left + between) / pitch)), unit, nodes);
    found = { cell, gap, pitch, line, across, left, height: Math.ceil(nodes / across) * line };
    if (found.height <= most) break;
  }
  const high = found.cell + found.gap, between = Math.max(1, Math.round(found.cell / 3));
  const room = Math.floor((width - left) / found.across);
  found.wide = Math.min(22, 3 * found.cell, Math.max(found.cell, Math.floor((room - between) / columns) - found.gap));
  found.pitch = columns * (found.wide + found.gap) + between;
  const place = (rank) => {
    const node = Math.floor(rank / gpus), gpu = rank % gpus;
    return [left + (node % found.across) * found.pitch + Math.floor(gpu / rows) * (found.wide + found.gap),
      Math.floor(node / found.across) * found.line + (gpu % rows) * high];
  };
  const rank = (x, y) => {
    const column = Math.floor((x - left) / found.pitch), line = Math.floor(y / found.line);
    const i = Math.floor((x - left - column * found.pitch) / (found.wide + found.gap)), j = Math.floor((y - line * found.line) / high);
    if (x < left || y < 0 || column >= found.across || i >= columns || j >= rows || i * rows + j >= gpus) return null;
    const number = (line * found.across + column) * gpus + i * rows + j;
    return number < world ? number : null;
  };
  const label = (line) => {
    const first = line * found.across * gpus, index = Math.floor(first / slowest[2]);
    return first % slowest[2] || slowest[1] === 1 ? "" : `${slowest[0]} ${index}`;
  };
  return { ...found, place, rank, label };
}

// Nodes of a line: whole units where one fits, else a part that divides it.
function whole(most, unit, nodes) {
  if (most >= nodes) return nodes;
  if (most >= unit) return most - (most % unit);
  const parts = d3.range(most, Math.max(1, most / 2), -1);
  return parts.find((part) => unit % part === 0) ?? most;
}
