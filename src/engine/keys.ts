/**
 * ENTRY of `npm run keys`: makes, lists and deletes API keys without a server.
 *   npm run keys -- create --name ci --scopes read,write
 *   npm run keys -- list
 *   npm run keys -- delete key_...
 * On PGlite the server must be stopped, because the database belongs to one process.
 */
import { parseArgs } from "node:util";
import { CodedError, describeFailure } from "../ops/errors.ts";
import { blobPath } from "./checkpoint/blobs.ts";
import { readSettings } from "./settings.ts";
import { openDatabase } from "./store/client.ts";
import { createStore } from "./store/store.ts";
import type { KeyStore } from "./store/types.ts";

const usage = "usage: keys create --name NAME --scopes read,write,admin,worker | keys list | keys delete ID";

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { name: { type: "string" }, scopes: { type: "string", default: "read,write" } },
  });
  const [command, id] = positionals;
  const known = { create: values.name !== undefined, list: true, delete: id !== undefined }[command ?? ""];
  if (known !== true) throw new CodedError("invalid_request", usage);
  const settings = readSettings();
  const { databaseUrl, dataDir, blobDir } = settings;
  const client = await openDatabase({ databaseUrl, dataDir, maxConnections: 2, onError: () => undefined });
  try {
    const store = createStore(client, (digest) => blobPath(blobDir, digest));
    console.log(await runCommand(store.keys, positionals, values));
  } finally {
    await client.close();
  }
}

async function runCommand(
  keys: KeyStore,
  [command, id]: readonly string[],
  values: { name?: string | undefined; scopes: string },
): Promise<string> {
  if (command === "create" && values.name !== undefined) {
    const scopes = values.scopes.split(",").map((scope) => scope.trim());
    const { key, secret } = await keys.create(values.name, scopes);
    return `${key.id} (${key.scopes.join(", ")}); the secret is shown this once:\n${secret}`;
  }
  if (command === "list") {
    const rows = await keys.list();
    const line = (key: (typeof rows)[number]) =>
      `${key.id}  ${key.scopes.join(",")}  ${key.createdAt.toISOString()}  ${key.name}`;
    return rows.length === 0 ? "no keys" : rows.map(line).join("\n");
  }
  if (command === "delete" && id !== undefined) {
    await keys.delete(id);
    return `${id} deleted`;
  }
  throw new CodedError("invalid_request", usage);
}

main().catch((error: unknown) => {
  console.error(describeFailure(error));
  process.exitCode = 1;
});
