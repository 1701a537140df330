/**
 * The matrix products of a device: which program computes one. The family follows from the device, the program from
 * the shape: nothing is chosen by timing, so that a run that is taken up again computes with the same. Within a
 * family all programs add up in the order of k, so that the bits of a row do not depend on how many there are.
 */
import { invariant } from "../../../ops/errors.ts";
import type { Gpu } from "./gpu.ts";
import { laneColumns, laneProgram, laneRows, laneWidth } from "./laneProduct.ts";
import { endingName, endingOf, numbersOf, type Product } from "./product.ts";
import { gridOf, type Program } from "./program.ts";
import { mostRows, rowColumns, rowProgram } from "./rowProduct.ts";
import { tileProgram, type Tile } from "./tileProduct.ts";

/** `tiles`: through workgroup memory; `lanes`: by broadcasts in a subgroup of 8. */
export type ProductFamily = "tiles" | "lanes";

/**
 * @returns the programs made for a device: `lanes` where subgroups are exactly as wide as they want, which are
 *   processors in disguise
 */
export function familyOf({ features, adapterInfo }: GPUDevice): ProductFamily {
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
  /** Operands are rounded to half precision; sums stay float32. */
  readonly f16: boolean;
}

/** @returns the function that computes products on `gpu`; programs are compiled when they are first needed. */
export function makeMultiply(gpu: Gpu, { family, f16 }: ProductOptions): Multiply {
  const programs = new Map<string, Program>();
  const cached = (key: string, make: () => Program): Program => {
    const known = programs.get(key);
    if (known) return known;
    const made = make();
    programs.set(key, made);
    return made;
  };
  return (product) => {
    const { form, m, n, k, a, b, y, bias } = product;
    if (m === 0 || n === 0) return;
    invariant(k > 0, `a product of ${m} x ${k} and ${k} x ${n} has nothing to add up`);
    const ending = endingOf(product);
    const tensors = bias ? [a, b, bias, y] : [a, b, y];
    const numbers = numbersOf(product);
    const key = `${form}${endingName(ending)}`;
    const isFew = form === "nt" && m <= mostRows && !ending.accumulate;
    if (family === "lanes") {
      const rows = isFew ? (m === 1 ? 1 : mostRows) : laneRows;
      const program = cached(`${key} ${rows}`, () => laneProgram({ form, rows, ending, f16 }));
      const groups = [Math.ceil(n / laneColumns), Math.ceil(m / rows)] as const;
      return gpu.run(program, tensors, { groups, numbers });
    }
    if (isFew) {
      const program = cached(`rows ${key}`, () => rowProgram(ending, f16));
      return gpu.run(program, tensors, { groups: gridOf(Math.ceil(n / rowColumns)), numbers });
    }
    const isLarge = Math.ceil(m / largeTile.rows) * Math.ceil(n / largeTile.columns) >= manyTiles;
    const tile = isLarge ? largeTile : smallTile;
    const vectors = numbers.slice(3, 7).every((value) => value % 4 === 0);
    const name = `${key} ${tile.rows} ${vectors}`;
    const program = cached(name, () => tileProgram({ form, tile, ending, vectors, f16 }));
    gpu.run(program, tensors, { groups: [Math.ceil(n / tile.columns), Math.ceil(m / tile.rows)], numbers });
  };
}
