// Renders /openapi.json. All that comes from the document or from an answer is set as text, never as HTML.
"use strict";

const SHOWN = 200_000; // bytes of an answer
const EVENTS = "text/event-stream";
const $ = (id) => document.getElementById(id);
let api;

function el(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const resolve = (part) => (part?.$ref
  ? { ...part.$ref.slice(2).split("/").reduce((node, name) => node[name], api), ...part, $ref: undefined }
  : part ?? {});

// Text with `code` and paragraphs, as the comments of the protos have them.
function prose(text) {
  const inline = (line) => line.split("`").map((piece, at) => (at % 2 ? el("code", { textContent: piece }) : piece));
  return (text ?? "").split(/\n\n+/).filter(Boolean).map((block) => (/^( {4}|- )/.test(block)
    ? el("pre", { textContent: block.replace(/^ {4}/gm, "") })
    : el("p", {}, ...inline(block.replace(/\n/g, " ")))));
}

function typeOf(schema) {
  if (schema.type === "array") return `list of ${typeOf(resolve(schema.items))}`;
  if (schema.type === "object" && schema.additionalProperties) return `map of ${typeOf(resolve(schema.additionalProperties))}`;
  if (schema.enum) return "one of";
  return [schema.type ?? "any", schema.format && `(${schema.format})`].filter(Boolean).join(" ");
}

function limitsOf(schema) {
  const names = {
    const: "always", minLength: "length ≥", maxLength: "length ≤", minimum: "≥", maximum: "≤", exclusiveMinimum: ">",
    exclusiveMaximum: "<", minItems: "items ≥", maxItems: "items ≤", minProperties: "pairs ≥", maxProperties: "pairs ≤",
    pattern: "matches",
  };
  const limits = Object.entries(names).filter(([name]) => name in schema).map(([name, text]) => `${text} ${schema[name]}`);
  if (schema.enum) limits.unshift(schema.enum.filter((value) => value !== "UNSPECIFIED").join(", "));
  for (const part of [schema.items, schema.additionalProperties, schema.propertyNames]) {
    if (part && !part.$ref) limits.push(...limitsOf(part).map((limit) => `${part === schema.propertyNames ? "keys" : "each"}: ${limit}`));
  }
  return limits;
}

// Rows of [name, schema, required] of an object, and of those inside it.
function rows(schema, before = "", depth = 0) {
  const whole = resolve(schema);
  if (whole.allOf) return whole.allOf.flatMap((part) => rows(part, before, depth));
  if (whole.type === "array") return rows(whole.items, `${before}[].`, depth);
  return Object.entries(whole.properties ?? {}).flatMap(([name, part]) => {
    const field = resolve(part);
    const inner = field.type === "array" ? resolve(field.items) : field;
    const path = before + name + (field.type === "array" && inner.properties ? "[]" : "");
    const deeper = inner.properties && depth < 3 ? rows(inner, `${path}.`, depth + 1) : [];
    return [[path, field, whole.required?.includes(name)], ...deeper];
  });
}

function table(title, found, marks = true) {
  if (!found.length) return [];
  const row = ([name, schema, required]) => el("tr", {},
    el("td", {}, el("code", { textContent: name }), marks && required ? el("span", { className: "required", textContent: " *", title: "required" }) : null),
    el("td", { textContent: typeOf(schema) }),
    el("td", {}, ...prose(schema.description),
      ...limitsOf(schema).map((limit) => el("span", { className: "tag", textContent: limit }))));
  const head = el("tr", {}, ...["Name", "Type", "Meaning and limits"].map((text) => el("th", { textContent: text })));
  return [el("h3", { textContent: title }), el("div", { className: "scroll" }, el("table", {}, head, ...found.map(row)))];
}

function example(schema) {
  const whole = resolve(schema);
  if ("const" in whole) return whole.const;
  if (whole.enum) return whole.enum.find((value) => value !== "UNSPECIFIED") ?? whole.enum[0];
  if (whole.type === "array") return whole.minItems ? [example(whole.items)] : [];
  if (whole.type === "boolean") return true;
  if (whole.type === "integer" || whole.type === "number") return whole.minimum ?? 1;
  if (whole.type === "object") {
    const fields = Object.entries(whole.properties ?? {}).filter(([, part]) => !resolve(part).readOnly);
    const needed = fields.filter(([name]) => whole.required?.includes(name));
    return Object.fromEntries((needed.length ? needed : fields.slice(0, 1)).map(([name, part]) => [name, example(part)]));
  }
  const texts = { uuid: "00000000-0000-0000-0000-000000000000", email: "you@example.com", "date-time": "2026-01-05T23:00:00Z" };
  return texts[whole.format] ?? (whole.format === "password" ? "correct horse" : "example");
}

function url(path, parameters, valueOf) {
  const encode = (parameter) => (parameter["x-many-segments"]
    ? valueOf(parameter).split("/").map(encodeURIComponent).join("/")
    : encodeURIComponent(valueOf(parameter)));
  const ofPath = parameters.filter((parameter) => parameter.in === "path");
  const target = ofPath.reduce((text, parameter) => text.replace(`{${parameter.name}}`, () => encode(parameter)), path);
  const query = new URLSearchParams();
  for (const parameter of parameters.filter((each) => each.in === "query" && valueOf(each))) {
    const list = resolve(parameter.schema).type === "array";
    for (const value of list ? valueOf(parameter).split(",") : [valueOf(parameter)]) query.append(parameter.name, value.trim());
  }
  return target + (query.size ? `?${query}` : "");
}

const quoted = (text) => `'${text.replace(/'/g, "'\\''")}'`;

function curl(verb, path, parameters, body, secured, streams) {
  const target = location.origin + url(path, parameters, (parameter) => (parameter.in === "path" || parameter.required ? String(example(parameter.schema)) : ""));
  const parts = [`curl ${streams ? "-N " : ""}${verb === "get" ? "" : `-X ${verb.toUpperCase()} `}${quoted(target)}`];
  if (secured) parts.push('-H "X-API-Key: $KEY"');
  if (body?.json) parts.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(example(body.json)))}`);
  if (body && !body.json) parts.push("--data-binary @file");
  return parts.join(" \\\n  ");
}

function tryForm(verb, path, parameters, body, secured) {
  const inputs = new Map(parameters.filter((each) => each.in !== "header" || each.name === "Idempotency-Key")
    .map((each) => [each.name, el("input", { required: each.in === "path", placeholder: each.in, autocomplete: "off" })]));
  const text = body?.json ? el("textarea", { value: JSON.stringify(example(body.json), null, 2), spellcheck: false }) : null;
  const file = body && !body.json ? el("input", { type: "file" }) : null;
  const stop = el("button", { type: "button", textContent: "Stop", hidden: true });
  const [status, head, answer] = [el("p"), el("pre", { hidden: true }), el("pre", { hidden: true })];
  const labels = [...inputs].map(([name, input]) => el("label", {}, el("span", { textContent: name }), input));
  const form = el("form", {}, ...labels, text, file, el("p", {}, el("button", { textContent: "Send" }), " ", stop), status, head, answer);

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const controller = new AbortController();
    stop.onclick = () => controller.abort();
    stop.hidden = false;
    head.hidden = answer.hidden = true;
    status.textContent = "…";
    const headers = {};
    if (secured && $("key").value) headers["X-API-Key"] = $("key").value;
    if (secured && $("tenant").value) headers["X-Tenant-ID"] = $("tenant").value;
    if (inputs.get("Idempotency-Key")?.value) headers["Idempotency-Key"] = inputs.get("Idempotency-Key").value;
    if (text) headers["Content-Type"] = "application/json";
    try {
      const target = url(path, parameters, (parameter) => inputs.get(parameter.name)?.value ?? "");
      const start = performance.now();
      const response = await fetch(target, {
        method: verb.toUpperCase(), headers, body: text?.value ?? file?.files[0], signal: controller.signal, credentials: "omit",
      });
      status.className = response.ok ? "done" : "failed";
      status.textContent = `${response.status} ${response.statusText} in ${Math.round(performance.now() - start)} ms`;
      head.textContent = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
      head.hidden = false;
      await show(response, answer);
    } catch (error) {
      status.className = "failed";
      status.textContent += ` ${error.message}`;
    } finally {
      stop.hidden = true;
    }
  });
  return form;
}

// The body as it arrives, JSON laid out once it is complete. Of events the last ones stay.
async function show(response, answer) {
  let [text, size] = ["", 0];
  const events = response.headers.get("content-type")?.startsWith(EVENTS);
  const decoder = new TextDecoder();
  answer.textContent = "";
  for (const reader = response.body?.getReader(); reader;) {
    const { done, value } = await reader.read();
    if (done) break;
    size += value.length;
    if (events) text = (text + decoder.decode(value, { stream: true })).slice(-SHOWN);
    else if (size <= SHOWN) text += decoder.decode(value, { stream: true });
    answer.textContent = text + (size > SHOWN && !events ? `\n… ${size} bytes` : "");
    answer.hidden = false;
  }
  if (/json/.test(response.headers.get("content-type") ?? "") && size <= SHOWN && text) {
    answer.textContent = JSON.stringify(JSON.parse(text), null, 2);
  }
}

function inside(verb, path, operation) {
  const parameters = (operation.parameters ?? []).map(resolve);
  const content = operation.requestBody?.content;
  const body = content && { json: content["application/json"]?.schema };
  const secured = !operation.security || operation.security.length > 0;
  const limit = operation["x-rate-limit"];
  const tags = [
    operation["x-alias-of"] && `the same as ${operation["x-alias-of"]}`,
    operation["x-permission"] ? `needs ${operation["x-permission"]}` : secured ? "needs an API key" : "needs no key",
    operation["x-audit"] && `audited as ${operation["x-audit"]}`,
    operation["x-quota"] && `counts against ${operation["x-quota"].join(", ")}`,
    limit && `${limit.per_minute} calls a minute for each ${limit.key}`,
    body?.json && `body ≤ ${api["x-body-limit"].toLocaleString()} bytes`,
  ].filter(Boolean);
  const named = parameters.map((each) => [each.name, { ...resolve(each.schema), description: each.description }, each.required]);
  const answers = Object.entries(operation.responses).map(([status, response]) => [status, resolve(response)]);
  const [code, success] = answers.find(([, response]) => !response["x-dry-run"]);
  const format = Object.entries(success.content ?? {})[0];
  const upgrades = "101" in operation.responses;
  return [
    ...prose(operation.description),
    el("p", {}, ...tags.map((tag) => el("span", { className: "tag", textContent: tag }))),
    ...table("Parameters", named), ...(body?.json ? table("Body", rows(body.json)) : []),
    el("h3", { textContent: "Answers" }),
    ...answers.map(([status, response]) => el("div", {}, el("code", { textContent: status }), " ", response.description)),
    ...(format ? table(`${code} ${format[0]}`, rows(format[1].schema), false) : []),
    ...(upgrades ? [] : [el("h3", { textContent: "Example" }), el("pre", { textContent: curl(verb, path, parameters, body, secured, format?.[0] === EVENTS) }),
      el("h3", { textContent: "Try it" }), tryForm(verb, path, parameters, body, secured)]),
  ];
}

function endpoint(verb, path, operation) {
  const summary = el("summary", {}, el("span", { className: `verb ${verb}`, textContent: verb.toUpperCase() }),
    el("span", { className: "path", textContent: path }), el("span", { className: "dim", textContent: operation.summary }));
  const details = el("details", { id: operation.operationId }, summary);
  details.dataset.words = [verb, path, operation.operationId, operation.description, operation["x-permission"]].join(" ").toLowerCase();
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(el("div", { className: "inside" }, ...inside(verb, path, operation)));
    if (details.open) history.replaceState(null, "", `#${operation.operationId}`);
  });
  return details;
}

function filter() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const section of document.querySelectorAll("section")) {
    const all = [...section.querySelectorAll(":scope > details")];
    for (const details of all) details.hidden = !words.every((word) => details.dataset.words.includes(word));
    section.hidden = all.every((details) => details.hidden);
  }
}

function open() {
  const details = $(decodeURIComponent(location.hash.slice(1)));
  if (details?.tagName === "DETAILS") details.open = true;
  details?.scrollIntoView();
}

async function start() {
  api = await (await fetch("/openapi.json")).json();
  $("version").textContent = api.info.version;
  const operations = Object.entries(api.paths).flatMap(([path, verbs]) => Object.entries(verbs).map(([verb, operation]) => [verb, path, operation]));
  const sections = api.tags.map((tag) => el("section", { id: `service ${tag.name}` }, el("h2", { textContent: tag.name }), ...prose(tag.description),
    ...operations.filter(([, , operation]) => operation.tags.includes(tag.name)).map((each) => endpoint(...each))));
  $("main").replaceChildren(...prose(api.info.description), ...sections);
  $("groups").replaceChildren(...api.tags.map((tag) => el("a", { href: `#${encodeURIComponent(`service ${tag.name}`)}`, textContent: tag.name })));
  $("search").addEventListener("input", filter);
  addEventListener("hashchange", open);
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !/INPUT|TEXTAREA/.test(event.target.tagName)) { event.preventDefault(); $("search").focus(); }
  });
  open();
}

start().catch((error) => $("main").replaceChildren(el("p", { className: "failed", textContent: `No description: ${error.message}` })));
