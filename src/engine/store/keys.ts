/**
 * API keys. A secret is the key's id followed by 256 random bits; the store has only its SHA-256, which is
 * enough for a secret that nobody can guess (a slow hash protects passwords that people choose).
 */
import { createHash, randomBytes } from "node:crypto";
import { asc, count, eq } from "./drizzle.ts";
import { CodedError } from "../../ops/errors.ts";
import type { Database } from "./client.ts";
import { newId } from "./ids.ts";
import { apiKeys } from "./schema.ts";
import type { KeyRow, KeyStore } from "./types.ts";

const secretBytes = 32;
const maxSecretChars = 200;
const maxNameChars = 200;
/** `lastUsedAt` is written at most this often, so that a read costs no write. */
const lastUsedGranularityMs = 60_000;

export const keyScopes = ["read", "write", "admin", "worker"] as const;

export function createKeyStore(db: Database): KeyStore {
  return {
    async create(name, scopes) {
      assertKey(name, scopes);
      const id = newId("key");
      const secret = `${id}_${randomBytes(secretBytes).toString("base64url")}`;
      const key: KeyRow = { id, name, scopes: [...scopes], createdAt: new Date(), lastUsedAt: null };
      await db.insert(apiKeys).values({ ...key, scopes: [...scopes], hash: hashOf(secret) });
      return { key, secret };
    },
    async verify(secret) {
      if (secret.length > maxSecretChars) return null;
      const [row] = await db
        .select()
        .from(apiKeys)
        .where(eq(apiKeys.hash, hashOf(secret)));
      if (!row) return null;
      const now = new Date();
      if (row.lastUsedAt === null || now.getTime() - row.lastUsedAt.getTime() > lastUsedGranularityMs) {
        await db.update(apiKeys).set({ lastUsedAt: now }).where(eq(apiKeys.id, row.id));
      }
      return toKey(row);
    },
    async list() {
      return (await db.select().from(apiKeys).orderBy(asc(apiKeys.createdAt), asc(apiKeys.id))).map(toKey);
    },
    async delete(id) {
      const gone = await db.delete(apiKeys).where(eq(apiKeys.id, id)).returning({ id: apiKeys.id });
      if (gone.length === 0) throw new CodedError("not_found", `no key ${JSON.stringify(id)}`);
    },
    async count() {
      const [row] = await db.select({ keys: count() }).from(apiKeys);
      return row?.keys ?? 0;
    },
  };
}

function assertKey(name: string, scopes: readonly string[]): void {
  if (name.length === 0 || name.length > maxNameChars || name.includes("\0")) {
    throw new CodedError("invalid_request", `key name of ${name.length} characters; wanted 1 to ${maxNameChars}`);
  }
  const known: readonly string[] = keyScopes;
  const unknown = scopes.filter((scope) => !known.includes(scope));
  if (unknown.length === 0 && scopes.length > 0) return;
  const got = scopes.length === 0 ? "no scopes" : `scopes ${unknown.map((scope) => JSON.stringify(scope)).join(", ")}`;
  throw new CodedError("invalid_request", `key with ${got}; wanted some of ${keyScopes.join(", ")}`);
}

function hashOf(secret: string): string {
  return createHash("sha256").update(secret).digest("hex");
}

function toKey({ id, name, scopes, createdAt, lastUsedAt }: typeof apiKeys.$inferSelect): KeyRow {
  return { id, name, scopes, createdAt, lastUsedAt };
}
