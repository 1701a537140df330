/**
 * What was answered under an Idempotency-Key. The first caller claims the key by inserting a row without an
 * answer; a claim whose caller was lost can be taken over after a while.
 */
import { and, eq, isNotNull, isNull, lt, or } from "./drizzle.ts";
import { CodedError } from "../../ops/errors.ts";
import type { Database } from "./client.ts";
import { idempotency } from "./schema.ts";
import type { IdempotencyStore } from "./types.ts";

const answerLifetimeMs = 24 * 3_600_000;
const claimLifetimeMs = 10 * 60_000;

export function createIdempotencyStore(db: Database): IdempotencyStore {
  const row = (key: string, scope: string) => and(eq(idempotency.key, key), eq(idempotency.scope, scope));
  return {
    begin: (key, scope, bodyDigest) =>
      db.transaction(async (tx) => {
        const fresh = { key, scope, bodyDigest, response: null, createdAt: new Date() };
        const claimed = await tx.insert(idempotency).values(fresh).onConflictDoNothing().returning();
        if (claimed.length > 0) return null;
        const [present] = await tx.select().from(idempotency).where(row(key, scope)).for("update");
        const age = present ? Date.now() - present.createdAt.getTime() : Infinity;
        const lifetime = present?.response ? answerLifetimeMs : claimLifetimeMs;
        if (!present || age > lifetime) {
          await tx.delete(idempotency).where(row(key, scope));
          await tx.insert(idempotency).values(fresh);
          return null;
        }
        if (present.bodyDigest !== bodyDigest) {
          throw new CodedError("idempotency_mismatch", `Idempotency-Key ${JSON.stringify(key)} came with another body`);
        }
        if (present.response) return present.response;
        throw new CodedError(
          "idempotency_conflict",
          `the first request with Idempotency-Key ${JSON.stringify(key)} still runs`,
        );
      }),
    async finish(key, scope, response) {
      await db
        .update(idempotency)
        .set({ response })
        .where(and(row(key, scope), isNull(idempotency.response)));
    },
    async release(key, scope) {
      await db.delete(idempotency).where(and(row(key, scope), isNull(idempotency.response)));
    },
    async sweep() {
      const answersBefore = new Date(Date.now() - answerLifetimeMs);
      const claimsBefore = new Date(Date.now() - claimLifetimeMs);
      await db
        .delete(idempotency)
        .where(
          or(
            and(isNotNull(idempotency.response), lt(idempotency.createdAt, answersBefore)),
            and(isNull(idempotency.response), lt(idempotency.createdAt, claimsBefore)),
          ),
        );
    },
  };
}
