"""Calls through the typed requests and models of one of the vendor's SDKs.

usage: typed.py tea|legacy     reads a JSON list of [product, action, {parameter: value}]

A parameter `$CONFIG` is the last ConfigId that a reply held. A domain that is being configured is asked again, as every tool does.

Prints a JSON list: {"ok": what the SDK's model of the reply holds}, {"absent": true} where this SDK has no such request, or
{"status", "code", "message"}. The key of the environment signs; SECURITY_TOKEN and BEARER_TOKEN stand for temporary credentials.
"""

import importlib
import json
import os
import sys
import time

ENDPOINT = os.environ["ENDPOINT"]
KEY_ID = os.environ.get("ALIBABA_CLOUD_ACCESS_KEY_ID")
KEY_SECRET = os.environ.get("ALIBABA_CLOUD_ACCESS_KEY_SECRET")
SECURITY_TOKEN = os.environ.get("SECURITY_TOKEN")
BEARER_TOKEN = os.environ.get("BEARER_TOKEN")

# How often a domain that is being configured is asked, a tenth of a second apart.
BUSY_MAX = 100


def tea(product, action, params):
    from alibabacloud_tea_openapi.models import Config

    package = {"cdn": "alibabacloud_cdn20180510", "vod": "alibabacloud_vod20170321"}[product]
    client = importlib.import_module(f"{package}.client").Client
    request = getattr(importlib.import_module(f"{package}.models"), f"{action}Request", None)
    if BEARER_TOKEN:
        config = Config(bearer_token=BEARER_TOKEN, endpoint=ENDPOINT, protocol="HTTP")
    else:
        config = Config(access_key_id=KEY_ID, access_key_secret=KEY_SECRET, security_token=SECURITY_TOKEN, endpoint=ENDPOINT, protocol="HTTP")
    # Where the underscores are differs from generator to generator.
    method = next(name for name in dir(client) if name.replace("_", "") == action.lower())
    call = getattr(client(config), method)
    # Some actions have no parameters at all, and no class for them.
    return (call(request().from_map(params)) if request else call()).body.to_map()


def legacy(product, action, params):
    from aliyunsdkcore.auth.credentials import StsTokenCredential
    from aliyunsdkcore.client import AcsClient

    package = {"cdn": "aliyunsdkcdn.request.v20180510", "vod": "aliyunsdkvod.request.v20170321"}[product]
    try:
        request = getattr(importlib.import_module(f"{package}.{action}Request"), f"{action}Request")()
    except ImportError:
        return None
    credential = StsTokenCredential(KEY_ID, KEY_SECRET, SECURITY_TOKEN) if SECURITY_TOKEN else None
    client = AcsClient(region_id="cn-hangzhou", credential=credential) if credential else AcsClient(KEY_ID, KEY_SECRET, "cn-hangzhou")
    request.set_endpoint(ENDPOINT)
    request.set_protocol_type("http")
    request.set_accept_format("JSON")
    for name, value in params.items():
        # Lists have a setter in the plural.
        (getattr(request, f"set_{name}", None) or getattr(request, f"set_{name}s"))(value)
    return json.loads(client.do_action_with_exception(request))


def error_of(error):
    if hasattr(error, "error_code"):  # legacy ServerException
        return {"code": error.error_code, "status": getattr(error, "http_status", None), "message": error.message}
    if hasattr(error, "code") and hasattr(error, "message"):  # Tea
        status = getattr(error, "statusCode", None) or getattr(error, "status_code", None)
        return {"code": error.code, "status": status, "message": error.message}
    return None


def config_in(reply):
    """The ConfigId that a reply holds, wherever in it; None where it holds none."""
    if isinstance(reply, dict):
        if reply.get("ConfigId"):
            return reply["ConfigId"]
        reply = list(reply.values())
    if isinstance(reply, list):
        return next(filter(None, map(config_in, reply)), None)
    return None


def answer(product, action, params):
    for _ in range(BUSY_MAX):
        try:
            found = (tea if sys.argv[1] == "tea" else legacy)(product, action, params)
            return {"absent": True} if found is None else {"ok": found}
        except Exception as error:
            described = error_of(error)
            if described is None:
                raise
            if described["code"] != "ServiceBusy":
                return described
            time.sleep(0.1)
    return described


answers, config = [], None
for product, action, params in json.load(sys.stdin):
    params = {name: config if value == "$CONFIG" else value for name, value in params.items()}
    answers.append(answer(product, action, params))
    config = config_in(answers[-1].get("ok")) or config
print(json.dumps(answers))
