// Calls through one of the vendor's SDKs for Node, unmodified: the current one (`tea`, of CDN) or the former core (`pop`).
//
// usage: node typed.cjs tea|pop     reads a JSON list of [product, action, {parameter: value}]
//
// A parameter `$CONFIG` is the last ConfigId that a reply held. A domain that is being configured is asked again, as every tool does.
//
// Prints a JSON list: {"ok": what the SDK made of the reply}, {"absent": true} where this SDK has no such call, or
// {"status", "code", "message"}.

const ENDPOINT = process.env.ENDPOINT;
const KEY_ID = process.env.ALIBABA_CLOUD_ACCESS_KEY_ID;
const KEY_SECRET = process.env.ALIBABA_CLOUD_ACCESS_KEY_SECRET;
const VERSIONS = { cdn: "2018-05-10", vod: "2017-03-21" };

// How often a domain that is being configured is asked, a tenth of a second apart.
const BUSY_MAX = 100;

const camel = (name) => name[0].toLowerCase() + name.slice(1);

async function tea(product, action, params) {
  if (product !== "cdn") return null;
  const sdk = require("@alicloud/cdn20180510");
  const { $OpenApiUtil } = require("@alicloud/openapi-core");
  const config = new $OpenApiUtil.Config({
    accessKeyId: KEY_ID,
    accessKeySecret: KEY_SECRET,
    endpoint: ENDPOINT,
    protocol: "HTTP",
  });
  const client = new sdk.default(config);
  const Request = sdk[`${action}Request`];
  const Part = { Tag: sdk[`${action}RequestTag`] };
  // What the SDK's class calls a parameter.
  const field = (of, name) => Object.entries(of.names()).find(([, wire]) => wire === name)?.[0] ?? camel(name);
  const made = (of, given) =>
    new of(Object.fromEntries(Object.entries(given).map(([name, value]) => [field(of, name), Part[name] ? value.map((part) => made(Part[name], part)) : value])));
  const reply = Request ? await client[camel(action)](made(Request, params)) : await client[camel(action)]();
  return reply.body.toMap();
}

async function pop(product, action, params) {
  const Core = require("@alicloud/pop-core");
  const client = new Core({
    accessKeyId: KEY_ID,
    accessKeySecret: KEY_SECRET,
    endpoint: `http://${ENDPOINT}`,
    apiVersion: VERSIONS[product],
  });
  return client.request(action, params, { method: "POST" });
}

// The ConfigId that a reply holds, wherever in it; null where it holds none.
function configIn(reply) {
  if (reply === null || typeof reply !== "object") return null;
  if (reply.ConfigId) return reply.ConfigId;
  for (const part of Object.values(reply)) {
    const found = configIn(part);
    if (found) return found;
  }
  return null;
}

async function answer(product, action, params) {
  let described;
  for (let time = 0; time < BUSY_MAX; time += 1) {
    try {
      const found = await (process.argv[2] === "tea" ? tea : pop)(product, action, params);
      return found === null ? { absent: true } : { ok: found };
    } catch (error) {
      if (!error.code) throw error;
      const status = error.statusCode ?? error.entry?.response?.statusCode ?? null;
      described = { code: error.code, status, message: error.message };
    }
    if (described.code !== "ServiceBusy") return described;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return described;
}

async function main() {
  const answers = [];
  let config = null;
  for (const [product, action, params] of JSON.parse(require("fs").readFileSync(0, "utf8"))) {
    const given = Object.fromEntries(Object.entries(params).map(([name, value]) => [name, value === "$CONFIG" ? config : value]));
    const answered = await answer(product, action, given);
    config = configIn(answered.ok ?? null) ?? config;
    answers.push(answered);
  }
  console.log(JSON.stringify(answers));
}

main();
