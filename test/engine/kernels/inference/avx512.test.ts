/**
 * The build for AVX-512 gives the numbers of `relaxed256` where the kernels have code of their own for it; products and
 * whole steps are compared in panels.test.ts and teamModel.test.ts.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { loadAvx512 } from "../../../../src/engine/kernels/inference/avx512.ts";
import { loadInferenceKernels } from "../../../../src/engine/kernels/inference/module.ts";
import { missingAvx512 } from "../../../../src/engine/kernels/machine/avx512.ts";
import { CodedError } from "../../../../src/ops/errors.ts";
import { seededStream } from "../../../../src/ops/rng.ts";
import { inferenceBuildCases } from "./builds.ts";

const memory = new WebAssembly.Memory({ initial: 4, maximum: 65_536, shared: true });
const { skip } = inferenceBuildCases.find(({ name }) => name === "avx512")!;

describe("the build for AVX-512", { skip }, () => {
  test("swiglu: the numbers of relaxed256 over the whole range, for any width", async () => {
    const [plain, own] = [await loadInferenceKernels("relaxed256", memory), await loadAvx512(memory)];
    const special = [0, -0, 1e-45, -1e-40, 88.7, 89, 90, -87, -88, -103, -104, -105, 3e38, Infinity, -Infinity, NaN];
    const [rows, most, stride] = [3, 70, 80];
    const values = seededStream(5, "gate").fillNormal(new Float32Array(rows * stride), 30);
    special.forEach((value, i) => (values[stride + i * 4] = value));
    const [gate, again, up] = [1024, 8192, 16_384];
    const at = (address: number): Float32Array => new Float32Array(memory.buffer, address, rows * stride);
    seededStream(6, "up").fillNormal(at(up), 1);
    for (let size = 1; size <= most; size++) {
      at(gate).set(values);
      at(again).set(values);
      plain.swiglu_rows(rows, size, gate, up, stride);
      own.swiglu_rows(rows, size, again, up, stride);
      // As numbers: of a NaN WebAssembly leaves sign and payload open.
      assert.deepEqual([...at(again)], [...at(gate)], `${size} wide`);
    }
  });

  test("a query that sees keys of minus infinity and NaN has the numbers of relaxed256", async () => {
    const [plain, own] = [await loadInferenceKernels("relaxed256", memory), await loadAvx512(memory)];
    const [h, heads, layerBytes, table, page] = [32, 2, 0, 1024, 65_536];
    const [q, k, v, cos, sin, out, scratch] = [2048, 4096, 6144, 8192, 9216, 10_240, 16_384];
    const floats = (address: number, count: number): Float32Array => new Float32Array(memory.buffer, address, count);
    new Uint32Array(memory.buffer, table, 1)[0] = page;
    for (const [name, strange] of [
      ["finite", 1],
      ["minus infinity", -Infinity],
      ["NaN", NaN],
    ] as const) {
      for (const offset of [0, 5, 15, 16, 40, 62]) {
        const answers = [plain, own].map((build) => {
          seededStream(7, "page").fillNormal(floats(page, 2 * 64 * heads * h), 1);
          // The key of position 3 of the second head.
          for (let i = 0; i < h; i++) floats(page, 64 * heads * h)[h * 16 + i * 16 + 3] = strange;
          for (const address of [q, k, v]) seededStream(address, "rows").fillNormal(floats(address, heads * h), 1);
          floats(cos, h / 2).fill(0.6);
          floats(sin, h / 2).fill(0.8);
          const cache = [0, heads, layerBytes, 1, 0, table] as const;
          const rows = [q, heads * h, k, v, heads * h, cos, sin, out, heads * h, scratch] as const;
          build.paged_attention(1, heads, 1, h, offset, ...cache, ...rows);
          return [...floats(out, heads * h)];
        });
        assert.deepEqual(answers[1], answers[0], `${name}, ${offset} before`);
      }
    }
  });
});

test("a library that is not there is named, and where the processor is not, what it lacks", async () => {
  const lacking = missingAvx512();
  const wanted = lacking === null ? /no library of kernels for AVX-512 was found \(nosuch\.so\)/ : /AVX-512: /;
  if (lacking !== null) assert.match(lacking, /the processor lacks avx512|the processor lacks fma|for Linux on x64/);
  await assert.rejects(loadAvx512(memory, "nosuch.so"), (error) => {
    assert.ok(error instanceof CodedError);
    assert.equal(error.code, "backend_unavailable");
    assert.match(error.message, wanted);
    return true;
  });
});
