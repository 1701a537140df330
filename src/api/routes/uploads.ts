/** Resumable uploads: the protocol's own requests, and how far an upload is as JSON. */
import type { RouteDeps } from "../deps.ts";
import type { HandlersOf } from "../handlers.ts";

type UploadOperations =
  "getUploadOptions" | "createUpload" | "getUpload" | "getUploadOffset" | "appendUpload" | "deleteUpload";

export function createUploadHandlers({ uploads }: RouteDeps): HandlersOf<UploadOperations> {
  return {
    getUploadOptions: ({ request }) => uploads.handle(request),
    createUpload: ({ request }) => uploads.create(request),
    async getUpload({ path }) {
      const { id, filename, sizeBytes, offsetBytes, expiresAt } = await uploads.get(path.id);
      const sizes = { size_bytes: sizeBytes, offset_bytes: offsetBytes, complete: offsetBytes === sizeBytes };
      return { status: 200, body: { id, filename, ...sizes, expires_at: expiresAt.toISOString() } };
    },
    getUploadOffset: ({ request }) => uploads.handle(request),
    appendUpload: ({ request }) => uploads.handle(request),
    deleteUpload: ({ request }) => uploads.handle(request),
  };
}
