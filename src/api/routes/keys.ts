/** API keys: making, listing and revoking them, for those with the scope `admin`. */
import type { RouteDeps } from "../deps.ts";
import type { HandlersOf } from "../handlers.ts";
import { presentAll, presentKey } from "../present.ts";

export function createKeyHandlers(deps: RouteDeps): HandlersOf<"createKey" | "listKeys" | "deleteKey"> {
  const { keys } = deps.store;
  return {
    async createKey({ body }) {
      const { key, secret } = await keys.create(body.name, body.scopes);
      deps.auth.forget();
      return { status: 201, body: { ...presentKey(key), secret }, headers: { "Cache-Control": "no-store" } };
    },
    async listKeys() {
      return { status: 200, body: presentAll((await keys.list()).map(presentKey)) };
    },
    async deleteKey({ path }) {
      await keys.delete(path.id);
      deps.auth.forget();
      return { status: 200, body: { deleted: [path.id] } };
    },
  };
}
