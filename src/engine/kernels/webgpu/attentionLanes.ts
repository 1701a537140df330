/**
 * Attention for devices of 8-wide subgroups, where loads are what costs (laneProduct.ts says why): a row of the other
 * side is loaded once, each lane its share, and every element is broadcast to all when it is needed. A subgroup
 * is a workgroup of 8 queries, or 8 keys. See attention.ts.
 */
import { attentionBuffers, attentionNumbers, attentionRows, lowest, type AttentionPrograms } from "./attention.ts";
import { laneWidth } from "./laneProduct.ts";
import { defineProgram, unrolled } from "./program.ts";

const entry = `@compute @workgroup_size(${laneWidth})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {`;

const queryOfLane = `
  let n = group.y;
  let b = group.z;
  let t = group.x * ${laneWidth}u + lane;
  let isQuery = t < p.queries;
  let own = queryRow(b, min(t, p.queries - 1u), n);
  let keyHead = n / (p.heads / p.keyHeads);
  let position = p.offset + t;
  let end = p.offset + min((group.x + 1u) * ${laneWidth}u, p.queries);`;

export function attentionLanes(headDim: number): AttentionPrograms {
  const buffers = attentionBuffers("f32");
  const define = (name: keyof typeof buffers, body: string) =>
    defineProgram({
      name: `attention ${name} lanes ${headDim}`,
      enable: "enable subgroups;",
      buffers: buffers[name],
      numbers: attentionNumbers,
      body: attentionRows + body,
    });
  return {
    block: laneWidth,
    forward: define("forward", forward(headDim)),
    backwardQueries: define("backwardQueries", backwardQueries(headDim)),
    backwardKeys: define("backwardKeys", backwardKeys(headDim)),
  };
}

/** Each lane's share of a row of `tensor`, as `NAME0`, `NAME1` ...: element i * 8 + lane. */
function share(name: string, tensor: string, row: string, headDim: number): string {
  return unrolled(
    Math.ceil(headDim / laneWidth),
    (i) => `let ${name}${i} = ${tensor}[${row} * ${headDim}u + min(${i * laneWidth}u + lane, ${headDim - 1}u)];`,
  );
}

/** Element `h` of a row that lies in the lanes' shares. */
function element(name: string, h: number): string {
  return `subgroupBroadcast(${name}${Math.floor(h / laneWidth)}, ${h % laneWidth}u)`;
}

/** The lane's own row in registers, `NAME0` ...: a load for each element. */
function own(name: string, tensor: string, headDim: number, factor = ""): string {
  return unrolled(headDim, (h) => `let ${name}${h} = ${tensor}[own * ${headDim}u + ${h}u]${factor};`);
}

function forward(headDim: number): string {
  const each = (line: (h: number) => string): string => unrolled(headDim, line);
  return `
${entry}${queryOfLane}
  ${own("q", "q", headDim, " * p.scale")}
  ${each((h) => `var sum${h} = 0.0;`)}
  var most = ${lowest};
  var total = 0.0;
  for (var s = 0u; s < end; s++) {
    let row = keyRow(b, s, keyHead);
    ${share("ks", "k", "row", headDim)}
    ${share("vs", "v", "row", headDim)}
    var score = 0.0;
    ${each((h) => `score = fma(q${h}, ${element("ks", h)}, score);`)}
    let isSeen = isQuery && s <= position;
    let highest = select(most, max(most, score), isSeen);
    let shrink = select(1.0, exp(most - highest), highest > most);
    let weight = exp(score - highest);
    most = highest;
    total = select(total, fma(total, shrink, weight), isSeen);
    ${each(
      (h) => `{
      let v = ${element("vs", h)};
      sum${h} = select(sum${h}, fma(weight, v, sum${h} * shrink), isSeen);
    }`,
    )}
  }
  if (isQuery) {
    let share = 1.0 / total;
    ${each((h) => `y[own * ${headDim}u + ${h}u] = sum${h} * share;`)}
    lse[statRow(b, t, n)] = most + log(total);
  }
}`;
}

function backwardQueries(headDim: number): string {
  const each = (line: (h: number) => string): string => unrolled(headDim, line);
  return `
${entry}${queryOfLane}
  ${own("q", "q", headDim, " * p.scale")}
  ${own("dy", "dy", headDim)}
  ${each((h) => `var sum${h} = 0.0;`)}
  var along = 0.0;
  ${each((h) => `along = fma(dy${h}, y[own * ${headDim}u + ${h}u], along);`)}
  let stat = statRow(b, min(t, p.queries - 1u), n);
  let logTotal = lse[stat];
  for (var s = 0u; s < end; s++) {
    let row = keyRow(b, s, keyHead);
    ${share("ks", "k", "row", headDim)}
    ${share("vs", "v", "row", headDim)}
    var score = 0.0;
    var slope = 0.0;
    ${each((h) => `let k${h} = ${element("ks", h)}; score = fma(q${h}, k${h}, score);`)}
    ${each((h) => `slope = fma(dy${h}, ${element("vs", h)}, slope);`)}
    let isSeen = isQuery && s <= position;
    let part = exp(score - logTotal) * (slope - along) * p.scale;
    ${each((h) => `sum${h} = select(sum${h}, fma(part, k${h}, sum${h}), isSeen);`)}
  }
  if (isQuery) {
    ${each((h) => `dq[own * ${headDim}u + ${h}u] = sum${h};`)}
    delta[stat] = along;
  }
}`;
}

function backwardKeys(headDim: number): string {
  const each = (line: (h: number) => string): string => unrolled(headDim, line);
  return `
${entry}
  let keyHead = group.y;
  let b = group.z;
  let s = group.x * ${laneWidth}u + lane;
  let isKey = s < p.keys;
  let own = keyRow(b, min(s, p.keys - 1u), keyHead);
  let sharing = p.heads / p.keyHeads;
  ${own("k", "k", headDim, " * p.scale")}
  ${own("v", "v", headDim)}
  ${each((h) => `var dk${h} = 0.0; var dv${h} = 0.0;`)}
  for (var n = keyHead * sharing; n < (keyHead + 1u) * sharing; n++) {
    for (var t = group.x * ${laneWidth}u; t < p.queries; t++) {
      let row = queryRow(b, t, n);
      let stat = statRow(b, t, n);
      ${share("qs", "q", "row", headDim)}
      ${share("dys", "dy", "row", headDim)}
      var score = 0.0;
      var slope = 0.0;
      ${each((h) => `let q${h} = ${element("qs", h)}; score = fma(k${h}, q${h}, score);`)}
      ${each((h) => `let dy${h} = ${element("dys", h)}; slope = fma(v${h}, dy${h}, slope);`)}
      let isSeen = isKey && s <= t;
      let weight = exp(score - lse[stat]);
      let part = weight * (slope - delta[stat]) * p.scale;
      ${each((h) => `dv${h} = select(dv${h}, fma(weight, dy${h}, dv${h}), isSeen);`)}
      ${each((h) => `dk${h} = select(dk${h}, fma(part, q${h}, dk${h}), isSeen);`)}
    }
  }
  if (isKey) {
    ${each((h) => `dk[own * ${headDim}u + ${h}u] = dk${h};`)}
    ${each((h) => `dv[own * ${headDim}u + ${h}u] = dv${h};`)}
  }
}`;
}
