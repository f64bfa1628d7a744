// Colours as the style says them, for what is drawn on a canvas: those need plain values, light or dark.
const root = document.documentElement;
const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);

function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

const redraws = new Set();
const redraw = () => redraws.forEach((draw) => draw());

function themeButton() {
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    const now = root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

// A canvas as wide as its place and as sharp as the screen. draw(context, width) is called again when that changes.
function canvasIn(place, height, draw, label) {
  const canvas = document.createElement("canvas");
  if (label) {
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
  }
  place.append(canvas);
  const paint = () => {
    const width = place.clientWidth;
    if (!width) return;
    const scale = Math.min(3, devicePixelRatio || 1), tall = height(width);
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(tall * scale);
    canvas.style.height = `${tall}px`;
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    draw(context, width, tall);
  };
  new ResizeObserver(paint).observe(place);
  redraws.add(paint);
  return { canvas, paint };
}

const tip = document.getElementById("tip");
function showTip(text, event) {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18}px`;
}

function legend(place, entries) {
  place.replaceChildren(...entries.map(([name, fill]) => {
    const item = document.createElement("span"), swatch = document.createElement("i");
    swatch.style.background = fill;
    item.append(swatch, name);
    return item;
  }));
}

const count = d3.format(",");
