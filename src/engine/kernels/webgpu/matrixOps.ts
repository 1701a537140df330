/**
 * Matrices of subgroups ("tensor cores"), as the product that uses them sees them: halves in, float32 sums out. A seam
 * of a few lines of WGSL, because hardware that has them is not at hand everywhere: tests put plain arithmetic in
 * their place, and prove the rest of the program with it.
 *
 * Here is the one that uses the hardware, through Dawn's experimental extension (docs/dawn/features/
 * subgroup_matrix.md in Dawn's sources). A matrix is held by all invocations of a subgroup together; all of them must
 * come to each operation.
 */
import { CodedError } from "../../../ops/errors.ts";

/** What is multiplied at once: M x K by K x N. */
export interface MatrixUnit {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

export interface MatrixTile {
  /** Rows and columns of a tile of y. */
  readonly rows: number;
  readonly columns: number;
  /** Rows and columns of a subgroup's block: multiples of the unit's that divide the tile's. */
  readonly blockRows: number;
  readonly blockColumns: number;
}

export interface MatrixTiles {
  readonly large: MatrixTile;
  readonly small: MatrixTile;
}

/** @returns 8 subgroups of 4 x 2 units each, and 4 of 2 x 2: 128 and 64 squared for units of 16 x 16. */
export function matrixTiles({ m, n }: MatrixUnit): MatrixTiles {
  return {
    large: { rows: 8 * m, columns: 8 * n, blockRows: 4 * m, blockColumns: 2 * n },
    small: { rows: 4 * m, columns: 4 * n, blockRows: 2 * m, blockColumns: 2 * n },
  };
}

/** Where a matrix lies in workgroup memory, in WGSL: elements of a row follow each other, or those of a column. */
export interface MatrixPlace {
  readonly offset: string;
  readonly stride: string;
  readonly major: "row" | "column";
}

export interface MatrixOps {
  /** Part of programs' names. */
  readonly name: string;
  readonly unit: MatrixUnit;
  /** What programs make of the units; `large` where there are many. */
  readonly tiles: MatrixTiles;
  /** Invocations that hold a matrix together. */
  readonly width: number;
  /** Directives beside `enable f16;`. */
  readonly enable: string;
  /** What the program's entry has beside its workgroup size. */
  readonly attributes: string;
  /** Further arguments of the entry, each with a comma in front. */
  readonly entryArguments: string;
  /** First lines of the entry, after which `subgroup` is the number of the subgroup in its workgroup. */
  readonly entry: string;
  /** Declarations that may use the arrays of halves `sliceA` and `sliceB`, and `result` of float32. */
  readonly declarations: string;
  /** Declares a variable: a matrix of sums that are zero. */
  zero(name: string): string;
  /** Declares a left operand from `sliceA`. */
  left(name: string, place: MatrixPlace): string;
  /** Declares a right operand from `sliceB`. */
  right(name: string, place: MatrixPlace): string;
  /** Adds a product to sums. */
  multiply(sum: string, left: string, right: string): string;
  /** Writes sums to `result`, rows of N elements from `offset` on. */
  store(sum: string, offset: string): string;
}

/** What an adapter offers; not yet among the types of WebGPU. */
export interface MatrixConfig {
  readonly componentType: string;
  readonly resultComponentType: string;
  readonly M: number;
  readonly N: number;
  readonly K: number;
}

/** What units must divide. */
export const unitMultiple = 32;

/** @returns the unit to use of those that an adapter offers: the largest, the first of equals; null for none. */
export function chooseUnit(configs: Iterable<MatrixConfig>): MatrixUnit | null {
  const fitting = [...configs].filter(({ componentType, resultComponentType, M, N, K }) => {
    const types = componentType === "f16" && resultComponentType === "f32";
    return types && [M, N, K].every((size) => size >= 8 && unitMultiple % size === 0);
  });
  const [best] = fitting.sort((a, b) => b.M * b.N * b.K - a.M * a.N * a.K);
  return best ? { m: best.M, n: best.N, k: best.K } : null;
}

/** Features of a device that the operations need. */
export const matrixFeatures = ["chromium-experimental-subgroup-matrix", "shader-f16", "subgroups"] as const;

/**
 * @param configs of the adapter that the device comes from: Dawn's devices tell none (npm webgpu 0.6.2)
 * @returns the operations of a device
 * @throws backend_unavailable when it has none, naming what is missing
 */
export function deviceMatrices(
  { features, adapterInfo }: Pick<GPUDevice, "features" | "adapterInfo">,
  configs: Iterable<MatrixConfig>,
): MatrixOps {
  const fail = (reason: string): CodedError => new CodedError("backend_unavailable", reason);
  const missing = matrixFeatures.find((feature) => !features.has(feature));
  if (missing) throw fail(`the device has no ${missing}`);
  const unit = chooseUnit(configs);
  if (!unit) throw fail("the device's matrices of subgroups add no products of halves up in float32");
  const { subgroupMinSize: least = 0, subgroupMaxSize: width = 0 } = adapterInfo;
  if (width === 0) throw fail("how wide the device's subgroups are is not known");
  const pinned = least !== width;
  if (pinned && !features.has("subgroup-size-control")) {
    throw fail(`the device's subgroups are ${least} to ${width} wide, and no program can choose`);
  }
  return subgroupMatrices(unit, width, pinned);
}

/** @param pinned the width must be asked for, because the device has others too */
export function subgroupMatrices(unit: MatrixUnit, width: number, pinned: boolean): MatrixOps {
  const { m, n, k } = unit;
  const load = (side: string, slice: string, { offset, stride, major }: MatrixPlace): string => {
    const order = major === "row" ? "row_major" : "col_major";
    return `subgroupMatrixLoad<subgroup_matrix_${side}, ${order}>(&${slice}, ${offset}, ${stride})`;
  };
  return {
    ...{ name: `${m}x${n}x${k}`, unit, tiles: matrixTiles(unit), width, declarations: "", entry: "" },
    enable: ["subgroups", "chromium_experimental_subgroup_matrix", ...(pinned ? ["subgroup_size_control"] : [])]
      .map((name) => `enable ${name};`)
      .join(" "),
    attributes: pinned ? `@subgroup_size(${width})` : "",
    entryArguments: ", @builtin(subgroup_id) subgroup: u32",
    zero: (name) => `var ${name} = subgroup_matrix_result<f32, ${n}, ${m}>();`,
    left: (name, place) => `let ${name} = ${load(`left<f16, ${k}, ${m}>`, "sliceA", place)};`,
    right: (name, place) => `let ${name} = ${load(`right<f16, ${n}, ${k}>`, "sliceB", place)};`,
    multiply: (sum, left, right) => `${sum} = subgroupMatrixMultiplyAccumulate(${left}, ${right}, ${sum});`,
    store: (sum, offset) => `subgroupMatrixStore<row_major>(&result, ${offset}, ${sum}, ${n}u);`,
  };
}
