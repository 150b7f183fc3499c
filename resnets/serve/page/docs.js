// The API's description as Swagger UI, whose files come from the package fastapi-offline.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#api", tryItOutEnabled: true, deepLinking: true });
