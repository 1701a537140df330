/**
 * Attention of a few queries over a long cache, as in decoding: a workgroup for each query and head. Its lanes share
 * the keys of a chunk for the scores and then the dimensions for the weighted sum of values, so that a single query
 * keeps all of them busy. Gradients are never asked of it.
 */
import { attentionNumbers, attentionRows, lowest } from "./attention.ts";
import { defineProgram, groupMax, groupSum, unrolled, type Program } from "./program.ts";

/** Queries of a sequence up to which this program is taken. */
export const mostDecoded = 8;
const chunk = 256;

/**
 * @param size invocations of a workgroup, a power of two
 * @returns the program for q, k, v -> y; grid: queries, heads, batch
 */
export function attentionDecode(headDim: number, size: number): Program {
  const shares = Math.ceil(headDim / size);
  const dimension = (i: number): string => `min(${i * size}u + lane, ${headDim - 1}u)`;
  return defineProgram({
    name: `attention decode ${size} ${headDim}`,
    buffers: [{ name: "q" }, { name: "k" }, { name: "v" }, { name: "y", write: true }],
    numbers: attentionNumbers,
    body: `${attentionRows}
${groupSum(size)}
${groupMax(size)}
var<workgroup> query: array<f32, ${headDim}>;
var<workgroup> weights: array<f32, ${chunk}>;
@compute @workgroup_size(${size})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = queryRow(group.z, group.x, group.y) * ${headDim}u;
  let keyHead = group.y / (p.heads / p.keyHeads);
  let end = p.offset + group.x + 1u;
  for (var i = lane; i < ${headDim}u; i += ${size}u) { query[i] = q[row + i] * p.scale; }
  workgroupBarrier();
  var most = ${lowest};
  var total = 0.0;
  ${unrolled(shares, (i) => `var sum${i} = 0.0;`)}
  for (var start = 0u; start < end; start += ${chunk}u) {
    let count = min(${chunk}u, end - start);
    var highest = ${lowest};
    for (var j = lane; j < count; j += ${size}u) {
      let at = keyRow(group.z, start + j, keyHead) * ${headDim}u;
      var score = 0.0;
      for (var i = 0u; i < ${headDim}u; i++) { score = fma(query[i], k[at + i], score); }
      weights[j] = score;
      highest = max(highest, score);
    }
    highest = max(most, maxOfGroup(lane, highest));
    var part = 0.0;
    for (var j = lane; j < count; j += ${size}u) {
      let weight = exp(weights[j] - highest);
      weights[j] = weight;
      part += weight;
    }
    let shrink = exp(most - highest);
    total = total * shrink + sumOfGroup(lane, part);
    ${unrolled(shares, (i) => `sum${i} *= shrink;`)}
    for (var j = 0u; j < count; j++) {
      let at = keyRow(group.z, start + j, keyHead) * ${headDim}u;
      ${unrolled(shares, (i) => `sum${i} = fma(weights[j], v[at + ${dimension(i)}], sum${i});`)}
    }
    most = highest;
    workgroupBarrier();
  }
  ${unrolled(
    shares,
    (i) => `let at${i} = ${i * size}u + lane;
  if (at${i} < ${headDim}u) { y[row + at${i}] = sum${i} / total; }`,
  )}
}`,
  });
}
