/**
 * Loss against training FLOPs as an SVG: one line per arm, the growth step marked. No library: a chart is a
 * scale, two axes and polylines.
 */

export interface Arm {
  readonly name: string;
  readonly color: string;
  readonly points: readonly { flops: number; loss: number }[];
  /** FLOPs at which the model was grown, or null. */
  readonly grownAt: number | null;
}

const WIDTH = 760;
const HEIGHT = 440;
const MARGIN = { left: 64, right: 24, top: 48, bottom: 56 };

/** @returns an SVG document. Arms without points are left out. */
export function lossFigure(title: string, arms: readonly Arm[]): string {
  const points = arms.flatMap((arm) => arm.points);
  const x = scale(0, Math.max(...points.map((point) => point.flops)), MARGIN.left, WIDTH - MARGIN.right);
  const losses = points.map((point) => point.loss);
  const y = scale(Math.min(...losses) - 0.05, Math.max(...losses) + 0.05, HEIGHT - MARGIN.bottom, MARGIN.top);
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="system-ui, sans-serif" font-size="13">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    `<text x="${MARGIN.left}" y="26" font-size="16" font-weight="600">${escapeXml(title)}</text>`,
    ...axis(x, y),
    ...arms.flatMap((arm, index) => drawArm(arm, index, x, y)),
    "</svg>",
  ];
  return `${parts.join("\n")}\n`;
}

interface Scale {
  readonly from: number;
  readonly to: number;
  at(value: number): number;
}

function scale(from: number, to: number, start: number, end: number): Scale {
  const span = to - from || 1;
  return { from, to, at: (value) => start + ((value - from) / span) * (end - start) };
}

/** Steps of 1, 2 or 5 times a power of ten, about six of them. */
function ticks(from: number, to: number): number[] {
  const rough = (to - from) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power;
  const first = Math.ceil(from / step);
  return Array.from({ length: Math.floor(to / step) - first + 1 }, (_, index) => (first + index) * step);
}

function axis(x: Scale, y: Scale): string[] {
  const bottom = HEIGHT - MARGIN.bottom;
  const exponent = Math.floor(Math.log10(x.to));
  return [
    ...ticks(y.from, y.to).map((value) => {
      const at = y.at(value).toFixed(1);
      return `<line x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${at}" y2="${at}" stroke="#e5e5e5"/>
<text x="${MARGIN.left - 8}" y="${at}" text-anchor="end" dominant-baseline="middle">${value.toFixed(1)}</text>`;
    }),
    ...ticks(x.from, x.to).map(
      (value) =>
        `<text x="${x.at(value).toFixed(1)}" y="${bottom + 20}" text-anchor="middle">${(value / 10 ** exponent).toFixed(1)}</text>`,
    ),
    `<line x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${bottom}" y2="${bottom}" stroke="#333"/>`,
    `<text x="${(MARGIN.left + WIDTH) / 2}" y="${HEIGHT - 14}" text-anchor="middle">training FLOPs, base included (x 1e${exponent})</text>`,
    `<text transform="translate(18 ${HEIGHT / 2}) rotate(-90)" text-anchor="middle">validation loss (nats per token)</text>`,
  ];
}

function drawArm(arm: Arm, index: number, x: Scale, y: Scale): string[] {
  if (arm.points.length === 0) return [];
  const path = arm.points.map((point) => `${x.at(point.flops).toFixed(1)},${y.at(point.loss).toFixed(1)}`).join(" ");
  const legendY = MARGIN.top + 14 + index * 20;
  const parts = [
    `<polyline points="${path}" fill="none" stroke="${arm.color}" stroke-width="2"/>`,
    `<line x1="${WIDTH - 250}" x2="${WIDTH - 222}" y1="${legendY}" y2="${legendY}" stroke="${arm.color}" stroke-width="3"/>`,
    `<text x="${WIDTH - 214}" y="${legendY + 4}">${escapeXml(arm.name)}</text>`,
  ];
  if (arm.grownAt !== null) {
    const at = x.at(arm.grownAt).toFixed(1);
    parts.push(
      `<line x1="${at}" x2="${at}" y1="${MARGIN.top}" y2="${HEIGHT - MARGIN.bottom}" stroke="${arm.color}" stroke-dasharray="4 4"/>`,
      `<text x="${Number(at) + 6}" y="${HEIGHT - MARGIN.bottom - 8}" fill="${arm.color}">grown here</text>`,
    );
  }
  return parts;
}

function escapeXml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
