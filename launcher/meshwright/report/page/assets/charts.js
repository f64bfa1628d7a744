// Charts by Observable Plot. Their colours are the style's variables, so that light, dark and print need no redrawing.
const variable = (kind) => `var(--c-${kind})`;
const ENDS = { embedding: "c-pipeline", "multi-token prediction": "c-context", loss: "c-recompute" };
const KINDS = ["c-compute", "c-expert", "c-tensor", "c-data", "c-optimizer", "c-bubble"];

function plotted(figure, options) {
  const place = figure.querySelector(".plot");
  new ResizeObserver(() => {
    const width = place.clientWidth;
    if (!width || Math.abs(width - (place.drawnAt ?? 0)) < 2) return;
    place.drawnAt = width;
    place.replaceChildren(Plot.plot({ width, height: 300, style: { background: "none", fontSize: "12px", fontFamily: "inherit", overflow: "visible" }, ...options(width) }));
  }).observe(place);
}

const stacked = (rows) => {
  const found = [...new Set(rows.filter((row) => row.value > 0).map((row) => row.kind))];
  return rows.filter((row) => found.includes(row.kind));
};

function memoryChart(figure, { stages, limit, spread }) {
  const kinds = Object.keys(stages[0]);
  const rows = stacked(stages.flatMap((stage, i) => kinds.map((kind) => ({ stage: i, kind, value: stage[kind] }))));
  const totals = stages.map((stage, i) => ({ stage: i, total: d3.sum(Object.values(stage)) }));
  const used = kinds.filter((kind) => rows.some((row) => row.kind === kind));
  plotted(figure, (width) => ({
    marginBottom: 36, marginRight: 64,
    x: { type: "band", label: "stage", tickSize: 0, ticks: sparse(stages.length, width), padding: stages.length < 4 ? 0.6 : 0.1 },
    y: { label: "GiB on one GPU", grid: true, domain: [0, 1.03 * Math.max(limit, spread * d3.max(totals, (d) => d.total))] },
    color: { domain: used, range: used.map(variable), legend: true, tickFormat: (kind) => data.memory[kind] },
    marks: [
      Plot.barY(rows, Plot.stackY({ x: "stage", y: "value", fill: "kind", order: used, insetLeft: 0.5, insetRight: 0.5,
        title: (row) => `stage ${row.stage}: ${data.memory[row.kind]} ${row.value.toFixed(1)} GiB`, tip: true })),
      Plot.ruleX(totals, { x: "stage", y1: (d) => d.total / spread, y2: (d) => d.total * spread, stroke: "var(--text)", strokeOpacity: 0.6, strokeWidth: 1.5 }),
      Plot.ruleY([limit], { stroke: "var(--bad)", strokeWidth: 2 }),
      Plot.text([limit], { y: (d) => d, text: (d) => `${d.toFixed(1)}\nusable`, frameAnchor: "right", dx: 6, fill: "var(--bad)", textAnchor: "start" }),
      Plot.ruleY([0]),
    ],
  }));
}

function layersChart(figure, { kinds, stages }) {
  const fills = { ...ENDS, ...Object.fromEntries(kinds.map((kind, i) => [kind, KINDS[i % KINDS.length]])) };
  const rows = stacked(stages.flatMap((stage, i) => Object.entries(stage).map(([kind, value]) => ({ stage: i, kind, value }))));
  const most = d3.max(stages, (stage) => d3.sum(Object.values(stage)));
  const used = Object.keys(stages[0]).filter((kind) => rows.some((row) => row.kind === kind));
  plotted(figure, (width) => ({
    marginBottom: 36, marginTop: 30,
    x: { type: "band", label: "stage", tickSize: 0, ticks: sparse(stages.length, width), padding: stages.length < 4 ? 0.6 : 0.1 },
    y: { label: "layers", grid: true, tickFormat: "d", ticks: d3.ticks(0, most, Math.min(most, 8)) },
    color: { domain: used, range: used.map((kind) => `var(--${fills[kind]})`), legend: true },
    marks: [
      Plot.barY(rows, Plot.stackY({ x: "stage", y: "value", fill: "kind", order: used, insetLeft: 0.5, insetRight: 0.5,
        title: (row) => `stage ${row.stage}: ${row.value} ${row.kind}`, tip: true })),
      Plot.ruleY([0]),
    ],
  }));
}

function partsChart(figure, parts) {
  const kinds = [...new Set(parts.filter((row) => row.seconds > 0).map((row) => row.part))];
  const titles = d3.rollup(parts, (rows) => rows[0].title, (row) => row.subject);
  const short = (text) => (text.length > 20 ? `${text.slice(0, 19)}…` : text);
  plotted(figure, () => ({
    height: 60 + 34 * titles.size, marginBottom: 36, marginLeft: 16 + 7 * d3.max(titles.values(), (title) => short(title).length),
    x: { label: "seconds of a step", grid: true },
    y: { label: null, tickFormat: (i) => short(titles.get(i)), tickSize: 0 },
    color: { domain: kinds, range: kinds.map(variable), legend: true, tickFormat: (kind) => words[kind] },
    marks: [Plot.barX(parts, Plot.stackX({ y: "subject", x: "seconds", fill: "part", order: kinds, tip: true,
      title: (row) => `${short(row.title)}\n${words[row.part]} ${time(row.seconds)}` })), Plot.ruleX([0])],
  }));
}

function lossChart(figure, { points }) {
  const rows = points.filter(([, loss]) => loss != null);
  plotted(figure, () => ({ height: 240, x: { label: "step" }, y: { label: "loss", grid: true },
    marks: [Plot.lineY(rows, { x: "0", y: "1", stroke: "var(--c-compute)", strokeWidth: 1.5, tip: true })] }));
}

function stepsChart(figure, { points, predicted }) {
  const rows = points.filter(([, , seconds]) => seconds != null);
  plotted(figure, () => ({ height: 240, x: { label: "step" }, y: { label: "seconds of a step", grid: true, zero: true },
    marks: [Plot.dot(rows, { x: "0", y: "2", r: 2, fill: "var(--c-data)", tip: true }), Plot.ruleY([predicted], { stroke: "var(--c-tensor)", strokeWidth: 2 })] }));
}

function frontierChart(figure, { points, limit }) {
  const kinds = ["other values", "frontier", "best"], fills = ["c-bubble", "c-compute", "c-tensor"];
  const fastest = d3.min(points, (row) => row.step_time_s), rows = points.filter((row) => row.step_time_s <= 3 * fastest);
  const edge = d3.sort(rows.filter((row) => row.kind === "frontier"), (row) => row.step_time_s);
  plotted(figure, () => ({
    height: 360, grid: true, marginBottom: 40, marginRight: 64,
    x: { label: "seconds of a step", domain: [fastest * 0.98, 1.02 * d3.max(rows, (row) => row.step_time_s)], labelArrow: "none", labelAnchor: "center" },
    y: { label: "peak memory of the fullest GPU, GiB", domain: [0, 1.06 * d3.max([limit, ...rows.map((row) => row.peak_memory_gib)])] },
    color: { domain: kinds, range: fills.map((fill) => `var(--${fill})`), legend: true },
    marks: [
      Plot.ruleY([limit], { stroke: "var(--bad)", strokeWidth: 2 }),
      Plot.text([limit], { y: (d) => d, text: (d) => `${d.toFixed(1)}\nusable`, frameAnchor: "right", dx: 6, fill: "var(--bad)", textAnchor: "start" }),
      Plot.line(edge, { x: "step_time_s", y: "peak_memory_gib", stroke: "var(--c-compute)", curve: "step-after", strokeOpacity: 0.5 }),
      Plot.dot(rows, { x: "step_time_s", y: "peak_memory_gib", fill: "kind", r: { value: (row) => (row.kind === "best" ? 6 : 4), scale: null }, sort: null, stroke: "var(--card)",
        title: (row) => `${time(row.step_time_s)}, ${row.peak_memory_gib.toFixed(1)} GiB\n${row.words}`, tip: true }),
    ],
  }));
}

// Both lines bend where the matrix units and the memory are limits alike.
function rooflineChart(figure, { points, peak, bandwidth, reached: [units, moving] }) {
  const kinds = [...new Set(points.map((point) => point.kind))], most = d3.max(points, (point) => point.seconds);
  const low = Math.min(d3.min(points, (point) => point.intensity), peak / bandwidth) / 2.5, high = 2.5 * Math.max(d3.max(points, (point) => point.intensity), peak / bandwidth);
  const roof = (top, rate) => [low, top / rate, high].map((x) => ({ x, y: Math.min(top, x * rate) / 1e12 }));
  const bottom = 0.6 * d3.min(points, (point) => point.rate) / 1e12;
  plotted(figure, (width) => ({
    height: 340, marginBottom: 40, marginLeft: 52, marginTop: 26, grid: true,
    x: { type: "log", label: "FLOP for each byte moved", labelArrow: "none", labelAnchor: "center", domain: [low, high], ticks: width / 120, tickFormat: "~s" },
    y: { type: "log", label: "TFLOP/s of one GPU", domain: [bottom, 1.5 * peak / 1e12], ticks: 5, tickFormat: "~s" },
    color: { domain: kinds, range: kinds.map((_, i) => `var(--${ROOFS[i % ROOFS.length]})`), legend: true },
    marks: [
      Plot.line(roof(peak, bandwidth), { x: "x", y: "y", stroke: "var(--text)", strokeWidth: 2, clip: true }),
      Plot.line(roof(units * peak, moving * bandwidth), { x: "x", y: "y", stroke: "var(--dim)", strokeWidth: 1.5, strokeDasharray: "5 4", clip: true }),
      Plot.dot(points, { x: "intensity", y: (point) => point.rate / 1e12, fill: "kind", stroke: "var(--card)", r: { value: (point) => 4 + 12 * Math.sqrt(point.seconds / most), scale: null },
        title: (point) => `${point.name}\n${d3.format(".3~s")(point.intensity)} FLOP a byte, ${d3.format(".3~r")(point.rate / 1e12)} TFLOP/s\n${time(point.seconds)}`, tip: true }),
      Plot.text([`${d3.format(".4~r")(peak / 1e12)} TFLOP/s, ${d3.format(",.4~r")(bandwidth / 1e9)} GB/s`], { frameAnchor: "top-left", dx: 6, fill: "var(--dim)" }),
    ],
  }));
}
const ROOFS = ["c-compute", "c-tensor", "c-pipeline", "c-expert", "c-recompute", "c-context", "c-data"];

const sparse = (size, width) => d3.range(0, size, Math.max(1, Math.ceil(size / (width / 26))));
