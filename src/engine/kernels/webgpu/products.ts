/**
 * The matrix products of a device: which program computes one. The family is chosen once for all products of a
 * process, the program follows from the shape: nothing here is chosen by timing. Within a family all programs add up in
 * the order of k, so that the bits of a row do not depend on how many there are.
 */
import * as tf from "@tensorflow/tfjs";
import { CodedError, invariant } from "../../../ops/errors.ts";
import type { Gpu } from "./gpu.ts";
import { toHalf } from "./half.ts";
import { fewLaneRows, laneColumns, laneProgram, laneRows, laneWidth } from "./laneProduct.ts";
import type { MatrixOps } from "./matrixOps.ts";
import { matrixProgram, tileFits } from "./matrixProduct.ts";
import { endingName, endingOf, numbersOf, type Ending, type Product, type ProductShape } from "./product.ts";
import { gridOf, type Program } from "./program.ts";
import { mostRows, rowColumns, rowProgram } from "./rowProduct.ts";
import { tileProgram, type Tile } from "./tileProduct.ts";

/** `tiles`: through workgroup memory; `lanes`: by broadcasts in a subgroup of 8. Every device has one of them. */
export type PlainFamily = "tiles" | "lanes";
/** `matrices`: by matrices of subgroups, in half precision only, where a device has them. */
export type ProductFamily = PlainFamily | "matrices";

/**
 * @returns the plain programs made for a device: `lanes` where subgroups are exactly as wide as they want, which are
 *   processors in disguise
 */
export function familyOf({ features, adapterInfo }: Pick<GPUDevice, "features" | "adapterInfo">): PlainFamily {
  const { subgroupMinSize, subgroupMaxSize } = adapterInfo;
  const hasLanes = features.has("subgroups") && subgroupMinSize === laneWidth && subgroupMaxSize === laneWidth;
  return hasLanes ? "lanes" : "tiles";
}

/** Records a product. The caller sees to the shapes. */
export type Multiply = (product: Product) => void;

const largeTile: Tile = { rows: 128, columns: 128, blockRows: 8, blockColumns: 8 };
const smallTile: Tile = { rows: 64, columns: 64, blockRows: 8, blockColumns: 4 };
/** Large tiles are taken when there are so many that every core of a large GPU has one. */
const manyTiles = 128;

export interface ProductOptions {
  readonly family: ProductFamily;
  /** The programs round operands to half precision, which those of `lanes` do not; sums stay float32. */
  readonly f16: boolean;
  /** The operations of the family `matrices`. */
  readonly matrices?: MatrixOps;
  readonly limits: GPUSupportedLimits;
}

/** What computes a product. */
export interface ProductRun {
  readonly program: Program;
  readonly groups: readonly [number, number];
}

export type PlanProduct = (shape: ProductShape, ending: Ending) => ProductRun;

/** @returns the function that says what computes a product; programs are made when they are first needed. */
export function planProducts(options: ProductOptions): PlanProduct {
  const { family, f16 } = options;
  invariant(family !== "lanes" || !f16, "products by lanes want operands that are rounded already");
  const programs = new Map<string, Program>();
  const cached = (key: string, make: () => Program): Program => {
    const known = programs.get(key);
    if (known) return known;
    const made = make();
    programs.set(key, made);
    return made;
  };
  const matrices = family === "matrices" ? matrixPlan(options, cached) : null;
  return (shape, ending) => {
    const { form, m, n } = shape;
    if (matrices) return matrices(shape, ending);
    const key = `${form}${endingName(ending)}`;
    if (family === "lanes") {
      const vectors = inVectors(shape) && [n, shape.yStart ?? 0].every((value) => value % 4 === 0);
      const rows = form !== "tn" && m <= fewLaneRows ? fewLaneRows : laneRows;
      const program = cached(`${key} ${rows} ${vectors}`, () => laneProgram({ form, rows, ending, vectors }));
      return { program, groups: [Math.ceil(n / laneColumns), Math.ceil(m / rows)] };
    }
    if (form === "nt" && m <= mostRows && !ending.accumulate) {
      return {
        program: cached(`rows ${key}`, () => rowProgram(ending, f16)),
        groups: gridOf(Math.ceil(n / rowColumns)),
      };
    }
    const tile = hasMany(shape, largeTile) ? largeTile : smallTile;
    const vectors = inVectors(shape);
    const program = cached(`${key} ${tile.rows} ${vectors}`, () => tileProgram({ form, tile, ending, vectors, f16 }));
    return { program, groups: [Math.ceil(n / tile.columns), Math.ceil(m / tile.rows)] };
  };
}

function matrixPlan(
  { f16, matrices: ops, limits }: ProductOptions,
  cached: (key: string, make: () => Program) => Program,
): PlanProduct {
  invariant(f16 && ops, "products by matrices of subgroups are products of halves");
  const { large, small } = ops.tiles;
  if (!tileFits(small, ops, limits)) {
    throw new CodedError("backend_unavailable", "the device has too little workgroup memory for matrices of subgroups");
  }
  const largest = tileFits(large, ops, limits) ? large : small;
  return (shape, ending) => {
    const { form, m, n } = shape;
    const tile = hasMany(shape, largest) ? largest : small;
    const vectors = inVectors(shape);
    const key = `${form}${endingName(ending)} ${tile.rows} ${vectors}`;
    const program = cached(key, () => matrixProgram({ form, tile, ending, vectors, ops }));
    return { program, groups: [Math.ceil(n / tile.columns), Math.ceil(m / tile.rows)] };
  };
}

function hasMany({ m, n }: ProductShape, { rows, columns }: Pick<Tile, "rows" | "columns">): boolean {
  return Math.ceil(m / rows) * Math.ceil(n / columns) >= manyTiles;
}

/** Whether rows and starts of both operands are multiples of four elements. */
function inVectors(shape: ProductShape): boolean {
  return numbersOf(shape)
    .slice(3, 7)
    .every((value) => value % 4 === 0);
}

/**
 * @param options `f16`: operands are rounded to half precision, by whatever program
 * @returns the function that computes products on `gpu`
 */
export function makeMultiply(gpu: Gpu, options: Omit<ProductOptions, "limits">): Multiply {
  // Rounding costs devices of lanes dozens of operations: each operand is rounded once, before.
  const roundsBefore = options.family === "lanes" && options.f16;
  const plan = planProducts({ ...options, f16: options.f16 && !roundsBefore, limits: gpu.device.limits });
  const multiply: Multiply = (product) => {
    const { m, n, k, a, b, y, bias } = product;
    if (m === 0 || n === 0) return;
    invariant(k > 0, `a product of ${m} x ${k} and ${k} x ${n} has nothing to add up`);
    const { program, groups } = plan(product, endingOf(product));
    gpu.run(program, bias ? [a, b, bias, y] : [a, b, y], { groups, numbers: numbersOf(product) });
  };
  if (!roundsBefore) return multiply;
  return (product) => {
    const { m, n, k, aStart = 0, bStart = 0 } = product;
    if (m === 0 || n === 0) return;
    const a = toHalf(gpu, product.a, aStart, m * k);
    const b = toHalf(gpu, product.b, bStart, n * k);
    multiply({ ...product, a, b, aStart: 0, bStart: 0 });
    tf.dispose([a, b]);
  };
}
