import { openOrtSession } from "../../infra/ort-session.ts";
import { sessionContract } from "./session.contract.ts";

sessionContract("ort-session", openOrtSession);
