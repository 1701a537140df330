/**
 * A token bucket per principal, in this process: a minute's worth may be taken at once and comes back evenly.
 * It protects the service from a client in a loop; it is no accounting.
 * The headers are those of the IETF draft "RateLimit header fields for HTTP".
 */
import { CodedError } from "../../ops/errors.ts";

const windowSeconds = 60;
/** Principals remembered at once; a full bucket that is forgotten loses nothing. */
const maxBuckets = 10_000;

interface Bucket {
  tokens: number;
  atMs: number;
}

export interface RateLimiter {
  /** Takes one token. @returns the headers to send @throws too_many_requests */
  take(principal: string): Readonly<Record<string, string>>;
}

export function createRateLimiter(perMinute: number, now: () => number = Date.now): RateLimiter {
  const buckets = new Map<string, Bucket>();
  const perMs = perMinute / (windowSeconds * 1000);
  return {
    take(principal) {
      const bucket = buckets.get(principal) ?? { tokens: perMinute, atMs: now() };
      bucket.tokens = Math.min(perMinute, bucket.tokens + (now() - bucket.atMs) * perMs);
      bucket.atMs = now();
      // taken out and put back, so that the map's order is that of last use
      if (!buckets.delete(principal)) makeRoom(buckets);
      buckets.set(principal, bucket);
      if (bucket.tokens < 1) {
        const waitSeconds = Math.ceil((1 - bucket.tokens) / perMs / 1000);
        const message = `more than ${perMinute} requests in a minute; try again in ${waitSeconds} s`;
        throw new CodedError("too_many_requests", message, { details: { retry_after_seconds: waitSeconds } });
      }
      bucket.tokens -= 1;
      return rateHeaders(perMinute, Math.floor(bucket.tokens), Math.ceil((perMinute - bucket.tokens) / perMs / 1000));
    },
  };
}

function rateHeaders(limit: number, remaining: number, resetSeconds: number): Record<string, string> {
  return {
    RateLimit: `"default";r=${remaining};t=${resetSeconds}`,
    "RateLimit-Policy": `"default";q=${limit};w=${windowSeconds}`,
  };
}

/** Forgets the bucket that was used longest ago: a Map keeps the order of insertion. */
function makeRoom(buckets: Map<string, Bucket>): void {
  if (buckets.size < maxBuckets) return;
  for (const key of buckets.keys()) {
    buckets.delete(key);
    return;
  }
}
