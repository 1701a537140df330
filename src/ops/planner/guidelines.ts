/**
 * The paper's advice on when to grow and by how much, with its limits spoken out. The d-law says on how many tokens
 * to train the base; it was fitted on 410M to 3B parameters and explodes outside its range, so its answer is clamped
 * to a share of the target's own budget. The g-law is the authors' own "mediocre" fit: reported, never followed;
 * their advice is g = 4.
 * Source: arXiv 2405.15319, section 4.2 eq 2, F eq 49-50, Table 4 (method section 4).
 */
import { CodedError } from "../errors.ts";

/** The growth factor that the paper advises for every size. */
export const advisedGrowthFactor = 4;

/** Largest share of the target's training budget that the base may cost: d / (g D). */
export const maxBaseShare = 0.1;

/** Where the laws were fitted or tabulated: parameters and FLOPs. */
const fittedParameters = { min: 4e8, max: 1e11 };
const fittedFlops = { min: 1e20, max: 1e24 };

export interface Advice {
  /** Nominal parameters of the target (the paper's N). */
  readonly parameters: number;
  /** Tokens that the target is to be trained on (D). */
  readonly tokens: number;
  /** 6 N D. */
  readonly flops: number;
  /** Tokens to train the base on (d), clamped. */
  readonly growthTimingTokens: number;
  /** The d-law's own answer. */
  readonly rawGrowthTimingTokens: number;
  readonly growthFactor: number;
  /** The g-law's own answer; for comparison. */
  readonly rawGrowthFactor: number;
  readonly clamped: boolean;
  readonly warnings: readonly string[];
}

/** @returns d of eq 2: log10 d = 0.88 log10 N + 163.27 / log10 C - 5.74. */
export function growthTimingLaw(parameters: number, flops: number): number {
  return 10 ** (0.88 * Math.log10(parameters) + 163.27 / Math.log10(flops) - 5.74);
}

/** @returns g of eq 50: log10 g = 1.01 log10 N - 29.88 / log10 C - 7.36. */
export function growthFactorLaw(parameters: number, flops: number): number {
  return 10 ** (1.01 * Math.log10(parameters) - 29.88 / Math.log10(flops) - 7.36);
}

/**
 * @param parameters nominal parameters of the target, from 1 to 1e15
 * @param tokens tokens that the target is to be trained on, from 1 to 1e18
 * @throws invalid_request for a number outside these
 */
export function advise(parameters: number, tokens: number): Advice {
  checkNumber("/parameters", parameters, 1e15);
  checkNumber("/tokens", tokens, 1e18);
  const flops = 6 * parameters * tokens;
  const warnings: string[] = [];
  if (parameters < fittedParameters.min || parameters > fittedParameters.max) {
    warnings.push(`${parameters} parameters lie outside the 4e8 to 1e11 that the laws were checked on`);
  }
  if (flops < fittedFlops.min || flops > fittedFlops.max) {
    warnings.push(`${flops.toExponential(2)} FLOPs lie outside the 1e20 to 1e24 that the laws were checked on`);
  }
  // Below 10 FLOPs the laws divide by a logarithm near zero; nothing is trained there.
  const raw = growthTimingLaw(parameters, Math.max(10, flops));
  const limit = maxBaseShare * advisedGrowthFactor * tokens;
  const clamped = raw > limit;
  if (clamped) {
    const share = `${maxBaseShare * 100} % of the target`;
    warnings.push(`the law asks for ${raw.toExponential(2)} tokens; clamped so that the base costs ${share}`);
  }
  return {
    parameters,
    tokens,
    flops,
    growthTimingTokens: Math.round(Math.min(raw, limit)),
    rawGrowthTimingTokens: raw,
    growthFactor: advisedGrowthFactor,
    rawGrowthFactor: growthFactorLaw(parameters, Math.max(10, flops)),
    clamped,
    warnings,
  };
}

function checkNumber(pointer: string, value: number, max: number): void {
  if (Number.isFinite(value) && value >= 1 && value <= max) return;
  const detail = `is ${value}; wanted a number from 1 to ${max}`;
  throw new CodedError("invalid_request", `${pointer}: ${detail}`, { fields: [{ pointer, detail }] });
}
