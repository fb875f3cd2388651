// Server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html; EventSource could not send the key.
export async function* parseEvents(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { type: "message", data: [] };
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      const [, field, text] = /^([^:]*)(?::[ ]?(.*))?$/s.exec(line);
      if (!line) {
        if (event.data.length) yield { ...event, data: JSON.parse(event.data.join("\n")) };
        event = { type: "message", data: [] };
      } else if (field === "event") event.type = text;
      else if (field === "id") event.id = text;
      else if (field === "data") event.data.push(text ?? "");
    }
  }
}
