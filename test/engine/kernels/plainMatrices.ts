/**
 * The operations on matrices of subgroups in plain WGSL: each invocation of a group of `width` neighbours keeps its share
 * of the sums, and operands are read from workgroup memory element by element. Each sum is a chain of fused
 * multiply-adds in the order of k, as in the plain products, so results are theirs to the last bit.
 */
import type { MatrixOps, MatrixPlace, MatrixUnit } from "../../../src/engine/kernels/webgpu/matrixOps.ts";

/** How the operations may lie, for tests of what notices. */
export interface Lies {
  /** WGSL of what one step adds to `value`: `left` times `right`, halves both. */
  readonly step?: string;
  /** WGSL of what is stored of a sum `value` at row `i` and column `j`. */
  readonly stored?: string;
  /** Replaces all declarations. */
  readonly declarations?: string;
}

/** Small, because drivers of processors compile for seconds what has many barriers. */
const tiles = {
  small: { rows: 16, columns: 16, blockRows: 8, blockColumns: 8 },
  large: { rows: 32, columns: 32, blockRows: 16, blockColumns: 16 },
};
const unit: MatrixUnit = { m: 8, n: 8, k: 8 };

/** @param width invocations that hold a matrix; divides the elements of one */
export function plainMatrices(lies: Lies = {}, width = 32): MatrixOps {
  const { m, n, k } = unit;
  const share = (m * n) / width;
  const step = lies.step ?? "fma(f32(left), f32(right), value)";
  const place = ({ offset, stride, major }: MatrixPlace): string =>
    major === "row" ? `vec3u(${offset}, ${stride}, 1u)` : `vec3u(${offset}, 1u, ${stride})`;
  return {
    ...{ name: `plain ${JSON.stringify(lies)}`, unit, tiles, width, enable: "", attributes: "", entryArguments: "" },
    entry: `let subgroup = lane / ${width}u; let held = lane % ${width}u;`,
    declarations:
      lies.declarations ??
      `
fn multiplyUnit(sums: ptr<function, array<f32, ${share}>>, a: vec3u, b: vec3u, held: u32) {
  for (var e = 0u; e < ${share}u; e++) {
    let i = (e * ${width}u + held) / ${n}u;
    let j = (e * ${width}u + held) % ${n}u;
    var value = sums[e];
    for (var k = 0u; k < ${k}u; k++) {
      let left = sliceA[a.x + i * a.y + k * a.z];
      let right = sliceB[b.x + k * b.y + j * b.z];
      value = ${step};
    }
    sums[e] = value;
  }
}
fn storeUnit(sums: ptr<function, array<f32, ${share}>>, offset: u32, held: u32) {
  for (var e = 0u; e < ${share}u; e++) {
    let at = e * ${width}u + held;
    let i = at / ${n}u;
    let j = at % ${n}u;
    let value = sums[e];
    result[offset + at] = ${lies.stored ?? "value"};
  }
}`,
    zero: (name) => `var ${name} = array<f32, ${share}>();`,
    left: (name, at) => `let ${name} = ${place(at)};`,
    right: (name, at) => `let ${name} = ${place(at)};`,
    multiply: (sum, left, right) => `multiplyUnit(&${sum}, ${left}, ${right}, held);`,
    store: (sum, offset) => `storeUnit(&${sum}, ${offset}, held);`,
  };
}
