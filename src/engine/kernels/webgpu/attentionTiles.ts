/**
 * Attention through workgroup memory: an invocation holds one query (or, for the gradients of keys and values, one
 * key) in registers, and the tiles of the other side are read by all at once. See attention.ts.
 */
import { attentionBuffers, attentionNumbers, attentionRows, lowest, type AttentionPrograms } from "./attention.ts";
import { defineProgram, unrolled } from "./program.ts";

const block = 64;
/** Vectors of workgroup memory for the two tensors of a tile: 16 KiB. */
const tileVectors = 1024;

const entry = `@compute @workgroup_size(${block})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {`;

/** What depends on head_dim. */
interface Shape {
  readonly headDim: number;
  /** Vectors of a row, the last filled up with zeros. */
  readonly vectors: number;
  /** Rows of a tile. */
  readonly tile: number;
}

export function attentionTiles(headDim: number): AttentionPrograms {
  const vectors = Math.ceil(headDim / 4);
  const tile = Math.max(1, Math.min(32, Math.floor(tileVectors / 2 / vectors)));
  const shape = { headDim, vectors, tile };
  const buffers = attentionBuffers(headDim % 4 === 0 ? "vec4f" : "f32");
  const define = (name: keyof typeof buffers, body: string) =>
    defineProgram({
      name: `attention ${name} tiles ${headDim}`,
      buffers: buffers[name],
      numbers: attentionNumbers,
      body: attentionRows + body,
    });
  return {
    block,
    forward: define("forward", forward(shape)),
    backwardQueries: define("backwardQueries", backwardQueries(shape)),
    backwardKeys: define("backwardKeys", backwardKeys(shape)),
  };
}

/** WGSL of `NAMEAt(row, i)`: vector i of a row of a tensor. */
function reader(name: string, { headDim, vectors }: Shape): string {
  const one = (c: number): string => `select(0.0, ${name}[min(at + ${c}u, end)], at + ${c}u <= end)`;
  const body =
    headDim % 4 === 0
      ? `return ${name}[row * ${vectors}u + i];`
      : `let at = row * ${headDim}u + i * 4u; let end = row * ${headDim}u + ${headDim - 1}u;
  return vec4f(${[0, 1, 2, 3].map(one).join(", ")});`;
  return `fn ${name}At(row: u32, i: u32) -> vec4f { ${body} }\n`;
}

/** Writes vector `i` of a row. */
function write(name: string, { headDim, vectors }: Shape, row: string, i: number, value: string): string {
  if (headDim % 4 === 0) return `${name}[${row} * ${vectors}u + ${i}u] = ${value};`;
  return [0, 1, 2, 3]
    .filter((c) => i * 4 + c < headDim)
    .map((c) => `${name}[${row} * ${headDim}u + ${i * 4 + c}u] = ${value}[${c}];`)
    .join("\n");
}

/** Loads a tile of two tensors into workgroup memory; rows from `end` on are not read. */
function loadTile(shape: Shape, first: string, second: string, row: string, start: string, end: string): string {
  const { vectors, tile } = shape;
  return `workgroupBarrier();
    for (var i = lane; i < ${tile * vectors}u; i += ${block}u) {
      let at = ${start} + i / ${vectors}u;
      if (at < ${end}) {
        let row = ${row};
        first[i] = ${first}At(row, i % ${vectors}u);
        second[i] = ${second}At(row, i % ${vectors}u);
      }
    }`;
}

const each = ({ vectors }: Shape, line: (i: number) => string): string => unrolled(vectors, line);

/** `let NAME = ` the dot product of a row in registers and row j of a tile. */
function dot(shape: Shape, name: string, registers: string, memory: string): string {
  return `var ${name} = 0.0;
        ${each(shape, (i) => `${name} += dot(${registers}${i}, ${memory}[j * ${shape.vectors}u + ${i}u]);`)}`;
}

function sharedTiles({ vectors, tile }: Shape): string {
  const type = `array<vec4f, ${tile * vectors}>`;
  return `var<workgroup> first: ${type};\nvar<workgroup> second: ${type};\n`;
}

/** The query of this invocation and the keys that any query of its workgroup may see. */
const queryOfLane = `
  let n = group.y;
  let b = group.z;
  let t = group.x * ${block}u + lane;
  let isQuery = t < p.queries;
  let own = queryRow(b, min(t, p.queries - 1u), n);
  let keyHead = n / (p.heads / p.keyHeads);
  let position = p.offset + t;
  let end = p.offset + min((group.x + 1u) * ${block}u, p.queries);`;

/** Adds four dimensions to a score, one after the other. */
function scoreOf(i: number): string {
  return unrolled(4, (c) => `score = fma(q${i}[${c}], k[${c}], score);`);
}

function forward(shape: Shape): string {
  const { tile } = shape;
  return `
${reader("q", shape)}${reader("k", shape)}${reader("v", shape)}${sharedTiles(shape)}
${entry}${queryOfLane}
  ${each(shape, (i) => `let q${i} = qAt(own, ${i}u) * p.scale;\nvar sum${i} = vec4f();`)}
  var most = ${lowest};
  var total = 0.0;
  for (var start = 0u; start < end; start += ${tile}u) {
    ${loadTile(shape, "k", "v", "keyRow(b, at, keyHead)", "start", "end")}
    workgroupBarrier();
    let count = min(${tile}u, end - start);
    for (var j = 0u; j < count; j++) {
      if (isQuery && start + j <= position) {
        var score = 0.0;
        ${each(shape, (i) => `{ let k = first[j * ${shape.vectors}u + ${i}u]; ${scoreOf(i)} }`)}
        var shrink = 1.0;
        if (score > most) {
          shrink = exp(most - score);
          most = score;
          ${each(shape, (i) => `sum${i} *= shrink;`)}
        }
        let weight = exp(score - most);
        total = fma(total, shrink, weight);
        ${each(shape, (i) => `sum${i} = fma(vec4f(weight), second[j * ${shape.vectors}u + ${i}u], sum${i});`)}
      }
    }
  }
  if (isQuery) {
    let share = 1.0 / total;
    ${each(shape, (i) => `sum${i} *= share; ${write("y", shape, "own", i, `sum${i}`)}`)}
    lse[statRow(b, t, n)] = most + log(total);
  }
}`;
}

function backwardQueries(shape: Shape): string {
  const { tile } = shape;
  return `
${["q", "k", "v", "y", "dy"].map((name) => reader(name, shape)).join("")}${sharedTiles(shape)}
${entry}${queryOfLane}
  var along = 0.0;
  ${each(shape, (i) => `let q${i} = qAt(own, ${i}u) * p.scale;\nlet dy${i} = dyAt(own, ${i}u);`)}
  ${each(shape, (i) => `var sum${i} = vec4f();`)}
  ${each(shape, (i) => `along += dot(dy${i}, yAt(own, ${i}u));`)}
  let stat = statRow(b, min(t, p.queries - 1u), n);
  let logTotal = lse[stat];
  for (var start = 0u; start < end; start += ${tile}u) {
    ${loadTile(shape, "k", "v", "keyRow(b, at, keyHead)", "start", "end")}
    workgroupBarrier();
    let count = min(${tile}u, end - start);
    for (var j = 0u; j < count; j++) {
      if (isQuery && start + j <= position) {
        ${dot(shape, "score", "q", "first")}
        ${dot(shape, "slope", "dy", "second")}
        let share = exp(score - logTotal) * (slope - along) * p.scale;
        ${each(shape, (i) => `sum${i} = fma(vec4f(share), first[j * ${shape.vectors}u + ${i}u], sum${i});`)}
      }
    }
  }
  if (isQuery) {
    ${each(shape, (i) => write("dq", shape, "own", i, `sum${i}`))}
    delta[stat] = along;
  }
}`;
}

function backwardKeys(shape: Shape): string {
  const { tile } = shape;
  return `
${["q", "k", "v", "dy"].map((name) => reader(name, shape)).join("")}${sharedTiles(shape)}
var<workgroup> stats: array<vec2f, ${tile}>;
${entry}
  let keyHead = group.y;
  let b = group.z;
  let s = group.x * ${block}u + lane;
  let isKey = s < p.keys;
  let own = keyRow(b, min(s, p.keys - 1u), keyHead);
  let shared_ = p.heads / p.keyHeads;
  ${each(shape, (i) => `let k${i} = kAt(own, ${i}u) * p.scale;\nlet v${i} = vAt(own, ${i}u);`)}
  ${each(shape, (i) => `var dk${i} = vec4f();\nvar dv${i} = vec4f();`)}
  for (var n = keyHead * shared_; n < (keyHead + 1u) * shared_; n++) {
    for (var start = group.x * ${block}u; start < p.queries; start += ${tile}u) {
      ${loadTile(shape, "q", "dy", "queryRow(b, at, n)", "start", "p.queries")}
      for (var i = lane; i < ${tile}u; i += ${block}u) {
        let stat = statRow(b, min(start + i, p.queries - 1u), n);
        stats[i] = vec2f(lse[stat], delta[stat]);
      }
      workgroupBarrier();
      let count = min(${tile}u, p.queries - start);
      for (var j = 0u; j < count; j++) {
        if (isKey && s <= start + j) {
          ${dot(shape, "score", "k", "first")}
          ${dot(shape, "slope", "v", "second")}
          let weight = exp(score - stats[j].x);
          let share = weight * (slope - stats[j].y) * p.scale;
          ${each(shape, (i) => `dv${i} = fma(vec4f(weight), second[j * ${shape.vectors}u + ${i}u], dv${i});`)}
          ${each(shape, (i) => `dk${i} = fma(vec4f(share), first[j * ${shape.vectors}u + ${i}u], dk${i});`)}
        }
      }
    }
  }
  if (isKey) {
    ${each(shape, (i) => write("dk", shape, "own", i, `dk${i}`))}
    ${each(shape, (i) => write("dv", shape, "own", i, `dv${i}`))}
  }
}`;
}
