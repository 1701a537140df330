/**
 * Opens the database: PGlite under the data directory, behind an exclusive lock of our own that is taken
 * first, or PostgreSQL. Migrations run at start, one process at a time. What it returns is drizzle's
 * database of either kind, and what the queue needs to reach the same database by itself.
 */
import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { setFlagsFromString } from "node:v8";
import { PGlite } from "@electric-sql/pglite";
import pg from "pg";
import { CodedError } from "../../ops/errors.ts";
import type { PgDatabase, PgQueryResultHKT } from "./drizzle.ts";
import { drizzlePg, drizzlePglite, migratePg, migratePglite } from "./drizzle.ts";
import { lockDirectory } from "./lock.ts";
import * as schema from "./schema.ts";

/** drizzle's database or a transaction on it. */
export type Database = PgDatabase<PgQueryResultHKT, typeof schema>;

/** How pg-boss reaches the database outside of a transaction of the store. */
export type QueueConnection =
  | { readonly kind: "pglite"; readonly pglite: PGlite }
  | { readonly kind: "postgres"; readonly connectionString: string };

export interface DatabaseClient {
  readonly kind: "pglite" | "postgres";
  readonly db: Database;
  readonly queueConnection: QueueConnection;
  close(): Promise<void>;
}

export interface DatabaseOptions {
  /** Absent: PGlite under `dataDir`. */
  readonly databaseUrl: string | null;
  readonly dataDir: string;
  /** Connections of this process at most. */
  readonly maxConnections: number;
  /** Told of connections that broke while idle. */
  readonly onError: (error: Error) => void;
}

const connectTimeoutMs = 10_000;
const statementTimeoutMs = 60_000;
/** Any number of our own: processes that migrate wait for each other on it. */
const migrationLockKey = 7_226_548_621;

const migrationsFolder = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..", "migrations");

/** @throws data_dir_locked, store_unavailable */
export async function openDatabase(options: DatabaseOptions): Promise<DatabaseClient> {
  return options.databaseUrl === null ? openPglite(options.dataDir) : openPostgres(options.databaseUrl, options);
}

async function openPglite(dataDir: string): Promise<DatabaseClient> {
  mkdirSync(dataDir, { recursive: true });
  const lock = await lockDirectory(dataDir);
  keepCompilationSmall();
  try {
    const pglite = await PGlite.create({ dataDir: join(dataDir, "pglite") });
    const db = drizzlePglite(pglite, { schema });
    await migratePglite(db, { migrationsFolder });
    const close = async (): Promise<void> => {
      await pglite.close();
      await lock.release();
    };
    return { kind: "pglite", db: db as unknown as Database, queueConnection: { kind: "pglite", pglite }, close };
  } catch (error) {
    await lock.release();
    throw new CodedError("store_unavailable", `the embedded database under ${dataDir} does not open`, { cause: error });
  }
}

/**
 * PostgreSQL compiled to WebAssembly is large: V8's optimizing compiler takes some 500 MB for a moment to make it no
 * faster for a service's small queries (bench/limits.ts). The process that holds the database computes nothing
 * else in WebAssembly, so its baseline compiler serves for all.
 */
function keepCompilationSmall(): void {
  for (const flag of ["--liftoff", "--liftoff-only", "--no-wasm-tier-up", "--no-wasm-dynamic-tiering"]) {
    setFlagsFromString(flag);
  }
}

async function openPostgres(connectionString: string, options: DatabaseOptions): Promise<DatabaseClient> {
  const pool = new pg.Pool({
    connectionString,
    max: options.maxConnections,
    connectionTimeoutMillis: connectTimeoutMs,
    statement_timeout: statementTimeoutMs,
    keepAlive: true,
  });
  pool.on("error", options.onError);
  try {
    await migrateUnderLock(pool);
  } catch (error) {
    await pool.end();
    const message = "PostgreSQL at DATABASE_URL does not answer, or refuses the migrations";
    throw new CodedError("store_unavailable", message, { cause: error });
  }
  const db = drizzlePg(pool, { schema }) as unknown as Database;
  return { kind: "postgres", db, queueConnection: { kind: "postgres", connectionString }, close: () => pool.end() };
}

async function migrateUnderLock(pool: pg.Pool): Promise<void> {
  const client = await pool.connect();
  try {
    await client.query("set statement_timeout = 0");
    await client.query("select pg_advisory_lock($1)", [migrationLockKey]);
    await migratePg(drizzlePg(client), { migrationsFolder });
    await client.query("select pg_advisory_unlock($1)", [migrationLockKey]);
  } finally {
    client.release(true); // a connection with other settings and perhaps the lock: never back into the pool
  }
}
