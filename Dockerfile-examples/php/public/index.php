<?php
$database = new SQLite3(':memory:');
$version = $database->querySingle('SELECT sqlite_version()');
printf("hello from PHP %s, SQLite %s, %s\n", PHP_VERSION, $version, date_default_timezone_get());
