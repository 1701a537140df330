/**
 * drizzle, as the store uses it: its CommonJS build. Node looks at the package.json above each ES module whose name
 * ends in .js, all of it, and drizzle's has 180 kB: with its hundred modules every process that opens a store, a test
 * or a worker, took 1.8 s of a processor to begin; this way it is 0.2 s. Types are those of the package.
 */
import { createRequire } from "node:module";
import type * as Orm from "drizzle-orm";
import type * as NodePostgres from "drizzle-orm/node-postgres";
import type * as NodePostgresMigrator from "drizzle-orm/node-postgres/migrator";
import type * as PgCore from "drizzle-orm/pg-core";
import type * as Pglite from "drizzle-orm/pglite";
import type * as PgliteMigrator from "drizzle-orm/pglite/migrator";

export type { SQL } from "drizzle-orm";
export type { PgDatabase, PgQueryResultHKT } from "drizzle-orm/pg-core";

const require = createRequire(import.meta.url);

export const { and, asc, count, desc, eq, exists, getTableColumns, gt, inArray } = require("drizzle-orm") as typeof Orm;
export const { isNotNull, isNull, lt, max, ne, notExists, or, sql } = require("drizzle-orm") as typeof Orm;
export const { drizzle: drizzlePg } = require("drizzle-orm/node-postgres") as typeof NodePostgres;
export const { migrate: migratePg } = require("drizzle-orm/node-postgres/migrator") as typeof NodePostgresMigrator;
export const { drizzle: drizzlePglite } = require("drizzle-orm/pglite") as typeof Pglite;
export const { migrate: migratePglite } = require("drizzle-orm/pglite/migrator") as typeof PgliteMigrator;

/** What tables are made of. */
export const { bigint, boolean, doublePrecision, foreignKey, index, integer } =
  require("drizzle-orm/pg-core") as typeof PgCore;
export const { json, pgTable, primaryKey, text, timestamp } = require("drizzle-orm/pg-core") as typeof PgCore;
