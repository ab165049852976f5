const os = require("os");
const express = require("express");

const app = express();
app.get("/", (request, response) => response.send(`hello from ${os.hostname()}\n`));
app.listen(3000);
