/**
 * What a failure of the database means. drizzle wraps the driver's error: the SQLSTATE is at
 * `error.cause.code`. A connection that is gone becomes `store_unavailable`, which jobs retry; everything
 * else passes unchanged.
 */
import { CodedError } from "../../ops/errors.ts";

/** Classes 08 (connection), 53 (resources), 57P (shutdown); serialization and deadlock; sockets. */
const unavailable = /^(08...|53...|57P..|40001|40P01|ECONNREFUSED|ECONNRESET|EPIPE|ETIMEDOUT|ENOTFOUND)$/;

const foreignKeyViolation = "23503";

/** @returns the SQLSTATE or system code of a database error, or null. */
export function databaseCode(error: unknown): string | null {
  for (let current = error, depth = 0; current instanceof Error && depth < 5; current = current.cause, depth++) {
    const code = (current as { code?: unknown }).code;
    if (typeof code === "string" && !(current instanceof CodedError)) return code;
  }
  return null;
}

export function isForeignKeyViolation(error: unknown): boolean {
  return databaseCode(error) === foreignKeyViolation;
}

function translate(error: unknown): unknown {
  if (error instanceof CodedError) return error;
  const code = databaseCode(error);
  const text = error instanceof Error ? `${error.message} ${String((error.cause as Error | undefined)?.message)}` : "";
  const lost = /Connection terminated|timeout exceeded when trying to connect|PGlite is clos/.test(text);
  if (!lost && (code === null || !unavailable.test(code))) return error;
  return new CodedError("store_unavailable", "the database does not answer", { cause: error });
}

/** @returns `methods` with database failures translated. */
export function guarded<Methods extends object>(methods: Methods): Methods {
  const entries = Object.entries(methods).map(([name, method]) => {
    if (typeof method !== "function") return [name, method] as const;
    const call = async (...args: unknown[]): Promise<unknown> => {
      try {
        return await (method as (...args: unknown[]) => unknown)(...args);
      } catch (error) {
        throw translate(error);
      }
    };
    return [name, call] as const;
  });
  return Object.fromEntries(entries) as Methods;
}
