/**
 * Makes the backward pass give memory back as it goes. tfjs keeps every saved activation and every
 * intermediate gradient until the whole pass is over, which doubles the peak; but a node of the tape needs
 * its saved tensors and the gradients of its outputs only once, when its own gradient is computed. So each
 * node's gradient function is wrapped to dispose of both right after. This reaches into `Engine.state`,
 * which tfjs exports but does not promise: the version is pinned, and a test holds the effect.
 */
import * as tf from "@tensorflow/tfjs";

/** The part of tfjs's `TapeNode` that is used here. */
interface TapeNode {
  gradient?: (dys: readonly (tf.Tensor | null)[]) => Record<string, () => tf.Tensor>;
  saved?: tf.Tensor[];
}

/**
 * To be called at the end of a forward pass, inside the function that is differentiated. Gradients taken
 * afterwards are the same; only tensors that were given to the differentiation as upstream gradients would
 * be lost, so it is for scalar losses.
 */
export function freeTapeAsUsed(): void {
  const { activeTape } = tf.engine().state as unknown as { activeTape: TapeNode[] | null };
  for (const node of activeTape ?? []) {
    const { gradient, saved } = node;
    if (!gradient) continue;
    node.gradient = (dys) => {
      const grads = tf.tidy(() => {
        const lazy = Object.entries(gradient(dys));
        return Object.fromEntries(lazy.map(([input, compute]) => [input, compute()]));
      });
      const results = Object.values(grads);
      // A gradient that passes through unchanged may be the very tensor that came in.
      for (const dy of dys) if (dy && !results.includes(dy)) dy.dispose();
      tf.dispose(saved ?? []);
      return Object.fromEntries(Object.entries(grads).map(([input, grad]) => [input, () => grad]));
    };
  }
}
