/**
 * Attention of a few queries over a long cache, as in decoding: a workgroup for each query and head. Its lanes share
 * the keys of a chunk for the scores and their weights, and then the dimensions for the weighted sum of values, so that
 * a single query keeps all of them busy. Gradients are never asked of it.
 *
 * A query gets the bits that the forward programs of both families give it (attention.ts says in which order they add
 * up): what each key does to the running maximum is made side by side, by a scan, but is applied key by key.
 */
import { attentionNumbers, attentionRows, lowest } from "./attention.ts";
import { defineProgram, unrolled, type Program } from "./program.ts";

/** Queries of a sequence up to which this program is taken. */
export const mostDecoded = 8;
const chunk = 256;

/**
 * @param size invocations of a workgroup, a power of two up to 256
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
var<workgroup> query: array<f32, ${headDim}>;
var<workgroup> weights: array<f32, ${chunk}>;
var<workgroup> shrinks: array<f32, ${chunk}>;
var<workgroup> maxima: array<f32, ${size}>;
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
    let ownEnd = min((lane + 1u) * ${chunk / size}u, count);
    var highest = ${lowest};
    for (var j = lane * ${chunk / size}u; j < ownEnd; j++) {
      let at = keyRow(group.z, start + j, keyHead) * ${headDim}u;
      var score = 0.0;
      for (var i = 0u; i < ${headDim}u; i++) { score = fma(query[i], k[at + i], score); }
      weights[j] = score;
      highest = max(highest, score);
    }
    maxima[lane] = highest;
    workgroupBarrier();
    for (var span = 1u; span < ${size}u; span <<= 1u) {
      let before = maxima[select(lane, lane - span, lane >= span)];
      workgroupBarrier();
      maxima[lane] = max(maxima[lane], before);
      workgroupBarrier();
    }
    var running = max(most, select(${lowest}, maxima[max(lane, 1u) - 1u], lane > 0u));
    for (var j = lane * ${chunk / size}u; j < ownEnd; j++) {
      let now = max(running, weights[j]);
      shrinks[j] = select(1.0, exp(running - now), now > running);
      weights[j] = exp(weights[j] - now);
      running = now;
    }
    most = max(most, maxima[${size - 1}]);
    workgroupBarrier();
    for (var j = 0u; j < count; j++) {
      let at = keyRow(group.z, start + j, keyHead) * ${headDim}u;
      total = fma(total, shrinks[j], weights[j]);
      ${unrolled(shares, (i) => `sum${i} = fma(weights[j], v[at + ${dimension(i)}], sum${i} * shrinks[j]);`)}
    }
    workgroupBarrier();
  }
  let share = 1.0 / total;
  ${unrolled(
    shares,
    (i) => `let at${i} = ${i * size}u + lane;
  if (at${i} < ${headDim}u) { y[row + at${i}] = sum${i} * share; }`,
  )}
}`,
  });
}
