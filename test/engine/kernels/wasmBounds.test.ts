/**
 * The kernels share a heap with everything else, so a write one float too far would be somebody else's bug. Here
 * they run on a memory of their own, every operand between guards, scratch of exactly the size asked for.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { KernelFunctions } from "../../../src/engine/kernels/wasm/module.ts";
import { loadKernels } from "../../../src/engine/kernels/wasm/module.ts";
import { kernelVariants, variantRuns } from "../../../src/engine/kernels/wasm/variants.ts";

const guardFloats = 64;
const guardBits = 0x5a5aa5a5;
const pages = 512;
const random = { numRuns: 60, seed: 7 };

/** Hands out operands with guards around them, and tells whether the guards are whole. */
class GuardedMemory {
  readonly memory = new WebAssembly.Memory({ initial: pages });
  readonly #bits = new Uint32Array(this.memory.buffer);
  #guards: number[] = [];
  #next = 0;

  reset(): void {
    this.#guards = [];
    this.#next = 0;
    this.#guard();
  }

  #guard(): void {
    this.#guards.push(this.#next);
    this.#bits.fill(guardBits, this.#next, this.#next + guardFloats);
    this.#next += guardFloats;
  }

  /** @returns the address of `floats` numbers around zero. */
  operand(floats: number): number {
    const at = this.#next;
    assert.ok((at + floats + guardFloats) * 4 <= this.memory.buffer.byteLength, "the test's memory is large enough");
    const values = new Float32Array(this.memory.buffer, at * 4, floats);
    for (let i = 0; i < floats; i++) values[i] = ((i * 7919) % 1009) / 1009 - 0.5;
    this.#next += floats;
    this.#guard();
    return at * 4;
  }

  ids(count: number, below: number): number {
    const at = this.operand(count);
    new Int32Array(this.memory.buffer, at, count).forEach((_, i, ids) => (ids[i] = (i * 5) % below));
    return at;
  }

  check(what: string): void {
    for (const at of this.#guards) {
      const broken = this.#bits.subarray(at, at + guardFloats).findIndex((bits) => bits !== guardBits);
      assert.equal(broken, -1, `${what}: wrote into the guard at float ${at + broken}`);
    }
  }
}

type Run = (c: KernelFunctions, g: GuardedMemory, sizes: readonly [number, number, number]) => void;

const runs: Readonly<Record<string, Run>> = {
  linear: (c, g, [r, o, i]) => {
    const few = c.linear_scratch_floats(r, i);
    const sizes = [r * i, o * i, o, r * o, c.gemm_scratch_floats(), few];
    const [x, w, bias, y, scratch, small] = sizes.map((n) => g.operand(n));
    c.linear_forward(r, o, i, x!, w!, bias!, y!, small!);
    c.linear_grad_x(r, o, i, y!, w!, x!, scratch!);
    c.linear_grad_w(r, o, i, y!, x!, w!, scratch!);
    c.linear_grad_bias(r, o, y!, bias!);
  },
  attention: (c, g, [t, group, h]) => {
    const kv = 2;
    const n = ((group % 4) + 1) * kv;
    const [query, key] = [t * n * h, t * kv * h];
    const [q, k, v, out, lse] = [query, key, key, query, n * t].map((size) => g.operand(size));
    const scratch = g.operand(c.attention_forward_scratch_floats(t, n, kv, h));
    c.attention_forward(1, t, t, n, kv, h, 0, q!, k!, v!, out!, lse!, scratch);
    const [one, result, single] = [n * h, n * h, n].map((size) => g.operand(size));
    const small = g.operand(c.attention_forward_scratch_floats(1, n, kv, h));
    c.attention_decode(1, 1, t, n, kv, h, t - 1, one!, k!, v!, result!, single!, small);
    const [dOut, dq, dk, dv] = [query, query, key, key].map((size) => g.operand(size));
    const back = g.operand(c.attention_backward_scratch_floats(t, n, kv, h));
    c.attention_backward(1, t, n, kv, h, q!, k!, v!, out!, lse!, dOut!, dq!, dk!, dv!, back);
  },
  crossEntropy: (c, g, [r, v, d]) => {
    const targets = g.ids(r, v);
    const [x, head, dx, dHead] = [r * d, v * d, r * d, v * d].map((n) => g.operand(n));
    c.cross_entropy(r, v, d, x!, head!, targets, dx!, dHead!, g.operand(c.cross_entropy_scratch_floats(r, v)));
    c.scale_in_place(r * d, dx!, 0.5);
  },
  "rmsNorm, rope, embedding": (c, g, [r, n, d]) => {
    const [x, gain, dy, dx, dGain, scratch] = [r * d, d, r * d, r * d, d, 2 * d].map((size) => g.operand(size));
    c.rms_norm_forward(r, d, 1e-5, x!, gain!, dy!);
    c.rms_norm_backward(r, d, 1e-5, x!, gain!, dy!, dx!, dGain!, scratch!);
    const [turned, result, cos, sin] = [r * n * d * 2, r * n * d * 2, r * d, r * d].map((size) => g.operand(size));
    c.rope_rotate(1, r, n, 2 * d, turned!, cos!, sin!, -1, result!);
    const ids = g.ids(r, n);
    const [table, dTable] = [n * d, n * d].map((size) => g.operand(size));
    assert.equal(c.embedding_gather(r, n, d, ids, table!, x!), -1);
    c.embedding_scatter(r, n, d, ids, x!, dTable!);
  },
  "swiglu, adamw": (c, g, [r, , d]) => {
    const size = r * d;
    const [gate, up, dy, dGate, dUp] = [1, 2, 3, 4, 5].map(() => g.operand(size));
    c.swiglu_forward(size, gate!, up!, dy!);
    c.swiglu_backward(size, gate!, up!, dy!, dGate!, dUp!);
    c.adamw_step(size, gate!, up!, dGate!, dUp!, 1, 0.9, 0.1, 0.95, 0.05, 1, 1e-3, 1, 1e-8);
  },
};

for (const variant of kernelVariants.filter(variantRuns)) {
  const guarded = new GuardedMemory();
  const made = loadKernels(variant, guarded.memory);
  for (const [name, run] of Object.entries(runs)) {
    test(`${variant}: ${name} writes nothing beyond its outputs and its scratch, at any size`, async () => {
      const c = await made;
      const size = fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(1, 63, 64, 65, 130));
      const check = (sizes: [number, number, number]): void => {
        guarded.reset();
        run(c, guarded, sizes);
        guarded.check(`${name} of ${sizes.join()}`);
      };
      fc.assert(fc.property(fc.tuple(size, size, size), check), random);
      if (name === "linear") check([131, 515, 260]);
      if (name === "crossEntropy") check([259, 515, 3]);
    });
  }
}
