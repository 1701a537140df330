/**
 * A migrated, empty embedded database, made once and copied: making one anew takes seconds, most of them PostgreSQL's
 * own initdb. Kept beside the packages, under the digest of what it depends on; tests of the first start make their own.
 */
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { openDatabase } from "../../src/engine/store/client.ts";

const root = join(import.meta.dirname, "../..");
const cache = join(root, "node_modules/.cache");

/** Gives a new data directory its database. */
export async function fillDataDir(dataDir: string): Promise<void> {
  const template = join(cache, `embedded-database-${digest()}`);
  if (!existsSync(template)) await make(template);
  cpSync(join(template, "pglite"), join(dataDir, "pglite"), { recursive: true });
}

function digest(): string {
  const hash = createHash("sha256");
  const migrations = join(root, "migrations");
  const files = readdirSync(migrations, { recursive: true, withFileTypes: true }).filter((file) => file.isFile());
  for (const file of files.map(({ parentPath, name }) => join(parentPath, name)).sort()) {
    hash.update(file.slice(migrations.length)).update("\0").update(readFileSync(file)).update("\0");
  }
  hash.update(readFileSync(join(root, "node_modules/@electric-sql/pglite/package.json")));
  return hash.digest("hex").slice(0, 16);
}

/** Several test files may make it at once: the first to rename wins. */
async function make(template: string): Promise<void> {
  mkdirSync(cache, { recursive: true });
  const making = mkdtempSync(join(cache, "making-"));
  try {
    const onError = (error: Error): void => {
      throw error;
    };
    const client = await openDatabase({ databaseUrl: null, dataDir: making, maxConnections: 1, onError });
    await client.close();
    renameSync(making, template);
  } catch (error) {
    if (!existsSync(template)) throw error;
  } finally {
    rmSync(making, { recursive: true, force: true });
  }
}
