/** Reference of `sumOfSquares`: float64, tensor by tensor and element by element, in the order given. */
import type * as tf from "@tensorflow/tfjs";

/** @see Kernels.sumOfSquares */
export async function sumOfSquares(tensors: readonly tf.Tensor[]): Promise<number> {
  let sum = 0;
  for (const tensor of tensors) {
    const values = await tensor.data();
    for (let i = 0; i < values.length; i++) sum += (values[i] as number) ** 2;
  }
  return sum;
}
