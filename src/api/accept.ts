/** Content negotiation by `Accept` (RFC 9110, section 12.5.1) among the few forms that an operation has. */
import { CodedError } from "../ops/errors.ts";

/** Requests whose answer `Accept` decided on. */
const negotiated = new WeakSet<Request>();

/** @returns whether the form of the answer to a request follows from its `Accept`: caches must keep the forms apart */
export function isNegotiated(request: Request): boolean {
  return negotiated.has(request);
}

/**
 * @param offered media types, the preferred one first
 * @returns the best of them for the client
 * @throws not_acceptable
 */
export function negotiate<Type extends string>(request: Request, offered: readonly Type[]): Type {
  negotiated.add(request);
  const header = request.headers.get("accept") ?? "*/*";
  const wanted = header.split(",").slice(0, 50).map(parseEntry);
  const rated = offered.map((type) => ({ type, quality: qualityOf(type, wanted) }));
  const best = rated.reduce((a, b) => (b.quality > a.quality ? b : a));
  if (best.quality > 0) return best.type;
  const message = `Accept: got ${JSON.stringify(header.slice(0, 200))}, can give ${offered.join(" or ")}`;
  throw new CodedError("not_acceptable", message);
}

interface Wanted {
  readonly type: string;
  readonly quality: number;
}

function parseEntry(entry: string): Wanted {
  const [type = "", ...parameters] = entry.split(";").map((part) => part.trim().toLowerCase());
  const quality = Number(parameters.find((parameter) => parameter.startsWith("q="))?.slice(2) ?? "1");
  return { type, quality: quality >= 0 && quality <= 1 ? quality : 0 };
}

/** The most specific entry that matches decides. */
function qualityOf(type: string, wanted: readonly Wanted[]): number {
  const family = `${type.split("/")[0]}/*`;
  for (const pattern of [type, family, "*/*"]) {
    const entry = wanted.find((candidate) => candidate.type === pattern);
    if (entry) return entry.quality;
  }
  return 0;
}
