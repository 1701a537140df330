/** `writePositions` on the GPU: a program copies the positions, so that the command stream is not interrupted. */
import { invariant } from "../../../ops/errors.ts";
import { requireShape } from "../wasm/fused.ts";
import type { Kernels } from "../kernels.ts";
import { eachElement, elementGrid } from "./elementwise.ts";
import type { Gpu } from "./gpu.ts";
import { defineProgram } from "./program.ts";

const program = defineProgram({
  name: "copy of positions",
  buffers: [{ name: "source" }, { name: "target_", write: true }],
  numbers: [
    ["count", "u32"],
    ["from_", "u32"],
    ["to", "u32"],
  ],
  body: eachElement("p.count", "target_[p.to + i] = source[p.from_ + i];"),
});

export function makeWritePositions(gpu: Gpu): NonNullable<Kernels["writePositions"]> {
  return (target_1SKH, at, source_BTKH, index) => {
    const [, s, k, h] = target_1SKH.shape;
    const [b, t] = source_BTKH.shape;
    requireShape("writePositions: target", target_1SKH, [1, s, k, h]);
    requireShape("writePositions: source", source_BTKH, [b, t, k, h]);
    const fits = at >= 0 && at + t <= s && index >= 0 && index < b;
    invariant(fits, `writePositions: ${t} positions of sequence ${index} of ${b} at ${at} do not fit ${s}`);
    invariant(gpu.owners(target_1SKH) === 1, "writePositions: another tensor shares the target's bytes");
    gpu.writable(target_1SKH);
    const count = t * k * h;
    const numbers = [count, index * count, at * k * h];
    gpu.run(program, [source_BTKH, target_1SKH], { groups: elementGrid(count), numbers, passing: true });
  };
}
