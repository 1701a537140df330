/** The exponentials of sampling and log-probabilities: how exact they are, and that C and JavaScript say the same. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { loadInferenceKernels } from "../../../src/engine/kernels/inference/module.ts";
import { blockIds, expOf, rowBlocks } from "../../../src/engine/kernels/inference/rowBlocks.ts";
import { TeamMember, controlWords } from "../../../src/engine/kernels/inference/team.ts";
import { blocksAt, computeBlocks, logitStride } from "../../../src/engine/model/logitPlaces.ts";
import { seededStream } from "../../../src/ops/rng.ts";
import { inferenceBuildCases } from "./inference/builds.ts";

/** Doubles between two positive ones. */
function ulpsBetween(a: number, b: number): bigint {
  const [x, y] = new BigInt64Array(Float64Array.of(a, b).buffer);
  return x! > y! ? x! - y! : y! - x!;
}

test("exponentials are those of the platform to the last place but one, and 0 where they are nothing", () => {
  const { uniform } = seededStream(1, "exp");
  for (let i = 0; i < 200_000; i++) {
    const x = -uniform() * [1e-8, 0.4, 3, 40, 708][i % 5]!;
    assert.ok(ulpsBetween(expOf(x), Math.exp(x)) <= 1n, `exp(${x})`);
  }
  assert.equal(expOf(0), 1);
  assert.ok(expOf(-708) > 0);
  for (const x of [-708.0001, -1e300, -Infinity, NaN]) assert.equal(expOf(x), 0);
});

function row(size: number): Float32Array {
  const values = seededStream(2, `row of ${size}`).fillNormal(new Float32Array(size), 10);
  if (size > 600) values.fill(-Infinity, 256, 512).set([-Infinity, -1e30, 80, -0], 100);
  return values;
}

test("sums of blocks are the sums of their exponentials, at any temperature", () => {
  for (const scale of [1, 1 / 0.7, 0.1]) {
    const logits = row(1000);
    const { maxima, sums } = rowBlocks(logits, scale);
    assert.equal(maxima.length, Math.ceil(logits.length / blockIds));
    for (let block = 0; block < maxima.length; block++) {
      const own = [...logits.subarray(block * blockIds, (block + 1) * blockIds)];
      const most = Math.max(...own);
      assert.equal(maxima[block], most);
      const sum = most === -Infinity ? 0 : own.reduce((total, x) => total + Math.exp((x - most) * scale), 0);
      assert.ok(Math.abs(sums[block]! - sum) <= 1e-13 * sum, `block ${block}: ${sums[block]} for ${sum}`);
    }
  }
  assert.deepEqual([...rowBlocks(Float32Array.of(1, NaN, 2), 1).maxima], [NaN]);
});

describe("the kernel", () => {
  const sizes = [1, 3, 4, 7, 8, 255, 256, 257, 1000, 9001];
  for (const { name, variant, avx512, skip } of inferenceBuildCases) {
    test(`${name}: the bits of JavaScript, part by part and as a whole`, { skip }, async () => {
      const memory = new WebAssembly.Memory({ initial: 4, maximum: 65_536, shared: true });
      const c = await loadInferenceKernels(variant, memory, avx512);
      const alone = new TeamMember(new Int32Array(controlWords), 1, 0);
      for (const size of sizes) {
        const [logits, stride, at] = [row(size), logitStride(size), 64];
        for (const which of [0, 1]) new Float32Array(memory.buffer, at + which * stride * 4, size).set(logits);
        computeBlocks(alone, c, 2, size, { at, stride });
        const count = Math.ceil(size / blockIds);
        const read = (from: number) => Buffer.from(new Uint8Array(memory.buffer, from, 8 * count).slice());
        const wanted = rowBlocks(logits, 1);
        for (const which of [0, 1]) {
          const { maxima, sums } = blocksAt(at + which * stride * 4, size);
          assert.ok(read(maxima).equals(Buffer.from(wanted.maxima.buffer)), `maxima of ${size}`);
          assert.ok(read(sums).equals(Buffer.from(wanted.sums.buffer)), `sums of ${size}`);
        }
        const { maxima, sums } = blocksAt(at, size);
        c.row_blocks(size, 1.7, at, maxima, sums);
        assert.ok(read(sums).equals(Buffer.from(rowBlocks(logits, 1.7).sums.buffer)), `scaled sums of ${size}`);
      }
      new Float32Array(memory.buffer, 64, 3).set([1, NaN, 2]);
      c.row_blocks(3, 1, 64, 1024, 2048);
      assert.ok(Number.isNaN(new Float64Array(memory.buffer, 1024, 1)[0]));
    });
  }
});
