/** ENTRY of the process in which chat templates are rendered; it knows nothing but what comes with each. */
import { renderChat } from "../tokenizer/chatTemplate.ts";
import type { ChatRendering } from "../tokenizer/chatTemplate.ts";
import { serveTasks } from "./boundedProcess.ts";

serveTasks((rendering: ChatRendering) => renderChat(rendering));
