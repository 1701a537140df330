/**
 * The angles of rotary embedding (Su et al. 2021) with the two scalings that Llama checkpoints use: the
 * linear one, and that of Llama 3.1, which slows long wavelengths only. Rounded to float32 where Hugging
 * Face's `LlamaRotaryEmbedding` rounds, because at position 100,000 the rounding is what one sees.
 */
import type { LlamaConfig } from "../../ops/architectures/llamaConfig.ts";

/** @returns the angle per position of each pair of dimensions, [H/2]: theta^(-2i/H), scaled. */
export function ropeFrequencies(config: LlamaConfig): Float32Array {
  const half = config.headDim / 2;
  const frequencies = new Float32Array(half);
  for (let i = 0; i < half; i++) {
    const exponent = Math.fround((2 * i) / config.headDim);
    frequencies[i] = scaled(1 / Math.fround(config.ropeTheta ** exponent), config);
  }
  return frequencies;
}

/** cos and sin of positions offset .. offset + length - 1, [length * H/2] each. */
export function ropeAngles(
  config: LlamaConfig,
  offset: number,
  length: number,
): { cos: Float32Array; sin: Float32Array; half: number } {
  const frequencies = ropeFrequencies(config);
  const half = frequencies.length;
  const cos = new Float32Array(length * half);
  const sin = new Float32Array(length * half);
  for (let t = 0; t < length; t++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround((offset + t) * (frequencies[i] as number));
      cos[t * half + i] = Math.cos(angle);
      sin[t * half + i] = Math.sin(angle);
    }
  }
  return { cos, sin, half };
}

function scaled(frequency: number, { ropeScaling }: LlamaConfig): number {
  if (ropeScaling === null) return frequency;
  if (ropeScaling.type === "linear") return frequency / ropeScaling.factor;
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings } = ropeScaling;
  const wavelength = (2 * Math.PI) / frequency;
  if (wavelength < originalMaxPositionEmbeddings / highFreqFactor) return frequency;
  if (wavelength > originalMaxPositionEmbeddings / lowFreqFactor) return frequency / factor;
  const smooth = (originalMaxPositionEmbeddings / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
  return ((1 - smooth) * frequency) / factor + smooth * frequency;
}
