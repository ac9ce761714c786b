"""Any calls at all through the vendor's former SDK (signature V1), parameters in a form body.

Reads a JSON list of [product, action, {parameter: value}] and prints a JSON list: {"ok": reply} or
{"status", "code", "message"} for each.
"""

import json
import os
import sys

from aliyunsdkcore.acs_exception.exceptions import ServerException
from aliyunsdkcore.client import AcsClient
from aliyunsdkcore.request import CommonRequest

VERSIONS = {"cdn": "2018-05-10", "vod": "2017-03-21", "cdn-2014": "2014-11-11"}

client = AcsClient(os.environ["ALIBABA_CLOUD_ACCESS_KEY_ID"], os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"], "cn-hangzhou")
answers = []
for product, action, parameters in json.load(sys.stdin):
    request = CommonRequest()
    request.set_accept_format("json")
    request.set_domain(os.environ["ENDPOINT"])
    request.set_method("POST")
    request.set_protocol_type("http")
    request.set_version(VERSIONS[product])
    request.set_action_name(action)
    for name, value in parameters.items():
        request.add_body_params(name, value)
    try:
        answers.append({"ok": json.loads(client.do_action_with_exception(request))})
    except ServerException as error:
        answers.append({"status": error.get_http_status(), "code": error.get_error_code(), "message": error.get_error_msg()})
print(json.dumps(answers))
