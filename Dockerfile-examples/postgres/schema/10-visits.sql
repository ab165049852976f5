CREATE TABLE visits (
    page text PRIMARY KEY,
    count bigint NOT NULL DEFAULT 0
);
INSERT INTO visits (page, count) VALUES ('index', 41);
