// Shows the OpenAPI document with Swagger UI, which the service brings along.

const response = await fetch("openapi.json");
const spec = await response.json();
// The document does not know under which prefix a proxy shows the service; the browser does.
spec.servers = [{ url: new URL(".", location.href).href }];
window.SwaggerUIBundle({ spec, dom_id: "#docs", deepLinking: true, tryItOutEnabled: true, validatorUrl: null });
