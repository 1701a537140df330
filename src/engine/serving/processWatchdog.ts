/** Condemns a model process that loads too long, is silent too long or grows too large. It only watches and tells. */
import { CodedError } from "../../ops/errors.ts";

export interface WatchdogLimits {
  /** From the start of the process to a model ready to generate. */
  readonly loadTimeoutMs: number;
  /** Silence after which a step counts as stuck. */
  readonly stuckTimeoutMs: number;
  /** Resident memory at which the process is ended. */
  readonly maxRssBytes: number;
}

export interface Watchdog {
  /** Any message came. */
  heard(): void;
  /** The process told its resident memory. */
  sized(rssBytes: number): void;
  loaded(): void;
  stop(): void;
}

const lookEveryMs = 500;

/** @param condemn called with the reason; may be called again while the process is still there */
export function createWatchdog(
  limits: WatchdogLimits,
  checkpointId: string,
  condemn: (error: CodedError) => void,
): Watchdog {
  const { loadTimeoutMs, stuckTimeoutMs, maxRssBytes } = limits;
  const startedAt = performance.now();
  let heardAt = startedAt;
  let isLoaded = false;

  function look(): void {
    const now = performance.now();
    if (!isLoaded && now - startedAt > loadTimeoutMs) {
      condemn(new CodedError("timeout", `${checkpointId} was not loaded within ${loadTimeoutMs} ms`));
    } else if (isLoaded && now - heardAt > stuckTimeoutMs) {
      condemn(new CodedError("timeout", `the process serving ${checkpointId} was silent for ${stuckTimeoutMs} ms`));
    }
  }

  const timer = setInterval(look, Math.min(lookEveryMs, loadTimeoutMs, stuckTimeoutMs));
  timer.unref();
  return {
    heard: () => {
      heardAt = performance.now();
    },
    sized(rssBytes) {
      if (rssBytes <= maxRssBytes) return;
      const sizes = `${rssBytes} bytes of memory; ${maxRssBytes} are allowed`;
      condemn(new CodedError("out_of_memory", `the process serving ${checkpointId} took ${sizes}`));
    },
    loaded: () => {
      isLoaded = true;
    },
    stop: () => clearInterval(timer),
  };
}
