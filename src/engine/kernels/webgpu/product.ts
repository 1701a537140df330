/**
 * What a matrix product is to the programs that compute it: y[M,N] = A B, in one of the three forms that a linear
 * layer and its gradients need. Each element of y is one chain of fused multiply-adds in the order of k,
 * whichever program computes it.
 */
import type * as tf from "@tensorflow/tfjs";

/** `nt`: A[M,K] B[N,K]^T; `nn`: A[M,K] B[K,N]; `tn`: A[K,M]^T B[K,N]. */
export type Form = "nt" | "nn" | "tn";

export interface ProductShape {
  readonly form: Form;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** First element of A, of B and of y in their tensors; 0 unless given. */
  readonly aStart?: number;
  readonly bStart?: number;
  readonly yStart?: number;
}

export interface Product extends ProductShape {
  readonly a: tf.Tensor;
  readonly b: tf.Tensor;
  readonly y: tf.Tensor;
  /** Added to each row: N numbers. */
  readonly bias?: tf.Tensor;
  /** Adds to what y holds instead of overwriting it. */
  readonly accumulate?: boolean;
}

/** The numbers of every product's program, with the distance between the rows of A and of B as they are stored. */
export const productNumbers = [
  ["m", "u32"],
  ["n", "u32"],
  ["k", "u32"],
  ["aWidth", "u32"],
  ["bWidth", "u32"],
  ["aStart", "u32"],
  ["bStart", "u32"],
  ["yStart", "u32"],
] as const;

export function numbersOf(product: ProductShape): number[] {
  const { form, m, n, k, aStart = 0, bStart = 0, yStart = 0 } = product;
  return [m, n, k, form === "tn" ? m : k, form === "nt" ? k : n, aStart, bStart, yStart];
}

/** What is done with a result; part of a program's name. */
export interface Ending {
  readonly bias: boolean;
  readonly accumulate: boolean;
}

export function endingOf({ bias, accumulate = false }: Product): Ending {
  return { bias: bias !== undefined, accumulate };
}

export function endingName({ bias, accumulate }: Ending): string {
  return (bias ? "+bias" : "") + (accumulate ? "+y" : "");
}
