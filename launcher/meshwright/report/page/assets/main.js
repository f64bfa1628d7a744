// One plan is shown at a time; what is drawn is drawn when its place has a width, so never in a hidden one.
let data, words;
const start = (found) => { data = found; ({ words } = found); drawAll(); };

const DRAW = {
  ranks: (figure, subject) => rankMap(figure, subject.ranks),
  schedule: (figure, subject) => subject.schedule ? schedule(figure, subject.schedule)
    : figure.querySelector(".canvas").append("Too many plans on one page to draw this; report it alone."),
  memory: (figure, subject) => memoryChart(figure, subject.memory),
  layers: (figure, subject) => layersChart(figure, subject.layers),
  roofline: (figure, subject) => rooflineChart(figure, subject.roofline),
  loss: (figure, subject) => lossChart(figure, subject.measured),
  steps: (figure, subject) => stepsChart(figure, subject.measured),
};

function drawAll() {
  for (const article of document.querySelectorAll("article.subject")) {
    const subject = data.subjects[Number(article.dataset.subject)];
    for (const figure of article.querySelectorAll("figure.chart")) DRAW[figure.dataset.chart](figure, subject);
  }
  for (const figure of document.querySelectorAll("figure[data-chart=parts]")) partsChart(figure, data.parts);
  for (const section of document.querySelectorAll("section.search"))
    frontierChart(section.querySelector("figure[data-chart=frontier]"), data.searches[Number(section.dataset.search)]);
  root.dataset.ready = "yes";
}

const links = [...document.querySelectorAll(".subjects a")];
function show() {
  if (!links.length) return;
  const chosen = links.find((link) => link.hash === location.hash) ?? links[0];
  for (const link of links) {
    link === chosen ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
    document.getElementById(link.hash.slice(1)).hidden = link !== chosen;
  }
}
addEventListener("hashchange", show);
show();
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("input[data-filters]").forEach(filters);
themeButton();

// JSON, compressed, in base64.
const bytes = Uint8Array.from(atob(document.getElementById("data").textContent), (letter) => letter.charCodeAt(0));
new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json().then(start);
