import http from "node:http";

/** An HTTP server on loopback; `answer` gets the request's path and the offset that it asks to go on from. */
export class FileServer {
  readonly asked: { readonly path: string; readonly from: number }[] = [];
  readonly #server: http.Server;
  #url = "";

  private constructor(server: http.Server) {
    this.#server = server;
  }

  static async start(
    answer: (path: string, from: number, response: http.ServerResponse, server: FileServer) => void,
  ): Promise<FileServer> {
    const server = http.createServer((request, response) => {
      const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
      const path = decodeURIComponent(request.url ?? "");
      started.asked.push({ path, from });
      answer(path, from, response, started);
    });
    const started = new FileServer(server);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = server.address();
    started.#url = `http://127.0.0.1:${typeof address === "object" ? address?.port : 0}`;
    return started;
  }

  get url(): string {
    return this.#url;
  }

  stop(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }
}

/** As servers of files answer: with the part that was asked for. */
export function sendFile(response: http.ServerResponse, content: Buffer, from: number): void {
  if (from >= content.length && from > 0) return void response.writeHead(416).end();
  const rest = content.subarray(from);
  const range = { "content-range": `bytes ${from}-${content.length - 1}/${content.length}` };
  response.writeHead(from > 0 ? 206 : 200, { "content-length": rest.length, ...(from > 0 && range) });
  response.end(rest);
}
