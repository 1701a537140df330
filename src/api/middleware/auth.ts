/**
 * Who may do what. Keys come as `Authorization: Bearer`; the store knows their hashes only. While the server
 * listens on a loopback address and no key exists, whoever reaches it may do everything; then the `Host` and
 * `Origin` of a request must be loopback too, so that no web page can reach it by rebinding a name (DNS) or by a
 * form sent across sites. Everything is refused unless it is open or a key allows it.
 */
import { createHash } from "node:crypto";
import { CodedError } from "../../ops/errors.ts";
import type { KeyStore } from "../../engine/store/types.ts";
import type { Principal, Scope } from "../handlers.ts";

/** How long a key that was verified is believed without asking the store again, ms. */
const trustMs = 5_000;
/** Keys remembered at once. */
const maxTrusted = 1_000;

const local: Principal = { id: "local", scopes: ["read", "write", "admin", "worker"] };

export interface Auth {
  /**
   * @returns who asks, or null where the operation is open to all and no key came
   * @throws unauthorized, forbidden
   */
  admit(request: Request, scope: Scope | "none"): Promise<Principal | null>;
  /** Forgets what was remembered of keys: one was made or revoked. */
  forget(): void;
}

/** @param loopback whether the server can be reached from this machine only */
export function createAuth(keys: KeyStore, loopback: boolean, now: () => number = Date.now): Auth {
  const trusted = new Map<string, { principal: Principal; untilMs: number }>();
  let open: { value: boolean; untilMs: number } | null = null;

  const isOpen = async (): Promise<boolean> => {
    if (!loopback) return false;
    if (!open || open.untilMs < now()) open = { value: (await keys.count()) === 0, untilMs: now() + trustMs };
    return open.value;
  };

  const verify = async (secret: string): Promise<Principal> => {
    const digest = createHash("sha256").update(secret).digest("hex");
    const known = trusted.get(digest);
    if (known && known.untilMs > now()) return known.principal;
    const key = await keys.verify(secret);
    if (!key) throw new CodedError("unauthorized", "the API key is not known; `npm run keys` on the server makes one");
    const principal = { id: key.id, scopes: key.scopes as readonly Scope[] };
    if (trusted.size >= maxTrusted) trusted.clear();
    trusted.set(digest, { principal, untilMs: now() + trustMs });
    return principal;
  };

  return {
    async admit(request, scope) {
      if (scope === "none") return null;
      if (await isOpen()) {
        assertLoopback(request);
        return local;
      }
      const principal = await verify(bearerOf(request));
      if (!covers(principal, scope)) {
        const has = principal.scopes.join(", ") || "none";
        throw new CodedError("forbidden", `the key has the scopes ${has}; this needs ${scope}`);
      }
      return principal;
    },
    forget() {
      trusted.clear();
      open = null;
    },
  };
}

/** @returns whether `host` (an address or a name, as in HOST) means this machine only. */
export function isLoopback(host: string): boolean {
  const name = host.replace(/^\[|\]$/g, "").toLowerCase();
  return name === "localhost" || name === "::1" || /^127(\.\d{1,3}){3}$/.test(name);
}

function covers(principal: Principal, scope: Scope): boolean {
  // whoever may write may look; managing keys implies both
  const enough: Readonly<Record<Scope, readonly Scope[]>> = {
    read: ["read", "write", "admin"],
    write: ["write", "admin"],
    admin: ["admin"],
    worker: ["worker", "admin"],
  };
  return enough[scope].some((one) => principal.scopes.includes(one));
}

function bearerOf(request: Request): string {
  const header = request.headers.get("authorization");
  if (header === null) throw new CodedError("unauthorized", "no API key: send `Authorization: Bearer KEY`");
  const match = /^Bearer ([\x21-\x7e]{1,200})$/i.exec(header.trim());
  if (!match?.[1]) throw new CodedError("unauthorized", "the Authorization header is not `Bearer KEY`");
  return match[1];
}

function assertLoopback(request: Request): void {
  const host = new URL(request.url).hostname;
  if (!isLoopback(host)) {
    const message = `Host is ${JSON.stringify(host.slice(0, 100))}: without API keys only localhost is answered`;
    throw new CodedError("forbidden", message);
  }
  const origin = request.headers.get("origin");
  if (origin === null || (URL.canParse(origin) && isLoopback(new URL(origin).hostname))) return;
  const message = `Origin is ${JSON.stringify(origin.slice(0, 100))}: without API keys no other site may call`;
  throw new CodedError("forbidden", message);
}
