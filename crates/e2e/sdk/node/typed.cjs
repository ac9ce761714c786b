// Calls through one of the vendor's SDKs for Node, unmodified: the current one (`tea`, of CDN) or the former core (`pop`).
//
// usage: node family.cjs tea|pop     reads a JSON list of [product, action, {parameter: value}]
//
// Prints a JSON list: {"ok": what the SDK made of the reply}, {"absent": true} where this SDK has no such call, or
// {"status", "code", "message"}.

const ENDPOINT = process.env.ENDPOINT;
const KEY_ID = process.env.ALIBABA_CLOUD_ACCESS_KEY_ID;
const KEY_SECRET = process.env.ALIBABA_CLOUD_ACCESS_KEY_SECRET;
const VERSIONS = { cdn: "2018-05-10", vod: "2017-03-21" };

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
  const fields = Object.fromEntries(Object.entries(params).map(([name, value]) => [camel(name), value]));
  const reply = Request ? await client[camel(action)](new Request(fields)) : await client[camel(action)]();
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

async function main() {
  const call = process.argv[2] === "tea" ? tea : pop;
  const answers = [];
  for (const [product, action, params] of JSON.parse(require("fs").readFileSync(0, "utf8"))) {
    try {
      const found = await call(product, action, params);
      answers.push(found === null ? { absent: true } : { ok: found });
    } catch (error) {
      if (!error.code) throw error;
      const status = error.statusCode ?? error.entry?.response?.statusCode ?? null;
      answers.push({ code: error.code, status, message: error.message });
    }
  }
  console.log(JSON.stringify(answers));
}

main();
