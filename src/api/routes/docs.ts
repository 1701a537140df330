/**
 * `/docs`: Swagger UI over the contract, served from the installed package. The page may load nothing from anywhere
 * else; its Content-Security-Policy says so. (Swagger UI sets style attributes, so styles may be inline.)
 */
import { readFile } from "node:fs/promises";
import { CodedError } from "../../ops/errors.ts";
import type { HandlersOf } from "../handlers.ts";

const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Cambium: HTTP API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
`;

const startScript = `SwaggerUIBundle({
  url: "/openapi.yaml",
  dom_id: "#docs",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
  persistAuthorization: false,
});
`;

/** What is served of the package, and nothing else. */
const assets: Readonly<Record<string, string>> = {
  "swagger-ui.css": "text/css",
  "swagger-ui-bundle.js": "text/javascript",
};

export function createDocsHandlers(): HandlersOf<"getDocs" | "getDocsAsset"> {
  return {
    getDocs() {
      const headers = { "Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy };
      return new Response(page, { headers: { ...headers, "Referrer-Policy": "no-referrer" } });
    },
    async getDocsAsset({ path: { asset } }) {
      if (asset === "start.js") return script(startScript, "text/javascript");
      const type = Object.hasOwn(assets, asset) ? assets[asset] : undefined;
      if (type === undefined) throw new CodedError("not_found", `no file ${JSON.stringify(asset)} belongs to /docs`);
      return script(await readFile(new URL(import.meta.resolve(`swagger-ui-dist/${asset}`))), type);
    },
  };
}

function script(content: string | Uint8Array<ArrayBuffer>, type: string): Response {
  const headers = { "Content-Type": `${type}; charset=utf-8`, "Cache-Control": "public, max-age=3600" };
  return new Response(content, { headers });
}
