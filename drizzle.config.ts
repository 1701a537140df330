/** For `npm run gen:migrations` alone: writes the difference between schema.ts and migrations/ as SQL. */
import { defineConfig } from "drizzle-kit";

export default defineConfig({ dialect: "postgresql", schema: "./src/engine/store/schema.ts", out: "./migrations" });
