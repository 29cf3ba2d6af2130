// Draws a picture's route through a network with experts: a column for each routed layer, and a row for each expert,
// larger ones below.

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

export function gmacs(value) { return `${value.toFixed(2)} GMACs`; }

// report: a restored picture's; costs: {base_gmacs, experts_gmacs}; budget: GMACs, 0 for none; space: width in pixels.
export function drawRoute(report, costs, budget, space) {
  const layers = costs.experts_gmacs;
  const rows = layers[0].length;
  const [left, top, row] = [74, 10, 34];
  const column = space < 500 ? 36 : 62; // so that the text stays readable
  const columns = Math.max(layers.length, 6); // room for the scale of the cost
  const width = left + column * columns + 16;
  const bars = top + row * rows + 30;
  const height = bars + 44;
  const said = describe(report, budget);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said });

  const largest = Math.max(...layers.flat(), 1e-9);
  const center = (layer, expert) => [left + column * (layer + 0.5), top + row * (expert + 0.5)];
  const taken = report.experts.map((layer) => layer[0]);
  const points = taken.map((expert, layer) => center(layer, expert));
  svg.append(element("polyline", { class: "path", points: points.map((point) => point.join(",")).join(" ") }));
  layers.forEach((experts, layer) => {
    experts.forEach((cost, expert) => {
      const [x, y] = center(layer, expert);
      const chosen = report.experts[layer].includes(expert);
      const dot = element("circle", {
        cx: x, cy: y, r: 4 + 9 * Math.sqrt(cost / largest), class: chosen ? "expert taken" : "expert",
      });
      dot.append(element("title", {}, `layer ${layer + 1}, expert ${expert}: ${(cost * 1000).toFixed(0)} MMACs`));
      svg.append(dot);
    });
    svg.append(element("text", { x: center(layer, 0)[0], y: top + row * rows + 14, "text-anchor": "middle" }, layer + 1));
  });
  for (let expert = 0; expert < rows; expert++) {
    svg.append(element("text", { x: 4, y: center(0, expert)[1] + 4 }, `expert ${expert}`));
  }
  svg.append(element("text", { x: 4, y: top + row * rows + 14 }, "layer"));

  // The route's cost, between the cheapest and the most expensive route.
  const sum = (choose) => layers.reduce((total, experts) => total + choose(experts), costs.base_gmacs);
  const [cheapest, dearest] = [sum((experts) => Math.min(...experts)), sum((experts) => Math.max(...experts))];
  const span = Math.max(dearest - cheapest, 1e-9);
  const end = left + column * columns;
  const place = (value) => left + (end - left) * Math.min(1, Math.max(0, (value - cheapest) / span));
  svg.append(element("rect", { class: "rail", x: left, y: bars, width: end - left, height: 8, rx: 4 }));
  svg.append(element("rect", {
    class: "spent", x: left, y: bars, width: Math.max(8, place(report.gmacs) - left), height: 8, rx: 4,
  }));
  svg.append(element("text", { x: 4, y: bars + 8, class: "strong" }, "GMACs"));
  svg.append(element("text", { x: left, y: bars + 24 }, cheapest.toFixed(1)));
  svg.append(element("text", { x: end, y: bars + 24, "text-anchor": "end" }, dearest.toFixed(1)));
  if (budget && budget < dearest) {
    const x = place(budget);
    svg.append(element("line", { class: "limit", x1: x, x2: x, y1: bars - 4, y2: bars + 12 }));
    const clear = Math.min(Math.max(x, left + 60), end - 60); // keep clear of the numbers at both ends
    svg.append(element("text", { x: clear, y: bars + 24, "text-anchor": "middle" }, `budget ${budget.toFixed(1)}`));
  }
  return svg;
}

export function describe(report, budget) {
  const route = report.experts.map((layer) => layer.join("+")).join(", ");
  const within = budget ? `, within a budget of ${budget.toFixed(1)}` : "";
  return `Experts taken, layer by layer: ${route}. ${gmacs(report.gmacs)} at 1280×720${within}.`;
}
